"""Rows of linear bounds that see only a window of an image say what rows of the whole image say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.bounds import linear, tighten
from secateur.bounds.engine import Backward
from secateur.bounds.joint import Networks
from secateur.bounds.maxima import without_max_pools
from secateur.bounds.pairs import Pair
from secateur.bounds.windows import Window, added, joined, move_apart, whole
from secateur.graph.capture import capture
from secateur.types import Interval
from walks import LIKE


class Net(nn.Module):
    """Two convolutions of the forms named, the function `between` them, and a third that makes the second
    matter.
    """

    def __init__(self, between: Callable[[nn.Module, Tensor], Tensor], **form: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, **form)
        self.shortcut, self.last = nn.Conv2d(4, 4, 1, stride=form.get("stride", 1)), nn.Conv2d(4, 2, 2)
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.5, 2.0)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = (x - 0.3) / torch.tensor([0.5, 0.7])[:, None, None]
        return torch.relu(self.last(torch.relu(self.between(self, torch.relu(self.first(x))))))


def plain(net: nn.Module, x: Tensor) -> Tensor:
    return net.second(x)


FORMS: dict[str, Net] = {}
torch.manual_seed(0)
for name, between, form in (
    ("plain", plain, {}),
    ("strided", plain, {"stride": 2}),
    ("padded", plain, {"padding": 2}),
    ("grouped", plain, {"groups": 2}),
    ("depthwise", plain, {"groups": 4, "padding": 1}),
    ("dilated", plain, {"dilation": 2}),
    ("residual", lambda net, x: net.second(x) + x, {"padding": 1}),
    ("shortcut", lambda net, x: net.second(x) - net.shortcut(x), {"padding": 1, "stride": 2}),
    ("twice", lambda net, x: net.second(torch.relu(net.second(x))) + net.shortcut(x), {"padding": 1}),
    ("average pool", lambda net, x: F.avg_pool2d(net.second(x), 2), {}),
    ("max pool", lambda net, x: net.second(F.max_pool2d(x, 2)), {}),
    ("max pool, overlapping", lambda net, x: net.second(F.max_pool2d(x, 3, 2, 1)), {}),
    ("batch norm", lambda net, x: net.norm(net.second(x)) * 1.3, {}),
    ("zero pad", lambda net, x: net.second(F.pad(x, (1, 0, 2, 1))), {}),
    ("slices", lambda net, x: net.second(x[:, :, 1::2, :-1]), {}),
):
    FORMS[name] = Net(between, **form).eval()

# What windows do not pass: rows of the whole image stand in.
DENSE = {
    "channels sliced": Net(lambda net, x: net.second(torch.cat([x[:, 2:], x[:, :2]], 1))),
    "a constant with places": Net(lambda net, x: net.second(x + torch.linspace(-1, 1, 10))),
    "a slice of channels": Net(lambda net, x: net.second(x)[:, 1:3].repeat(1, 2, 1, 1)),
    "spread out": Net(lambda net, x: net.second(x) + net.second(x).mean((2, 3), keepdim=True)),
    "reflected": Net(lambda net, x: net.second(F.pad(x, (1, 1, 1, 1), mode="reflect"))),
    "padded average": Net(lambda net, x: F.avg_pool2d(net.second(x), 2, padding=1)),
}


def both(net: nn.Module, size: int = 10) -> tuple[Networks, list[Interval]]:
    x = torch.rand(3, 2, size, size)
    graph = capture(net.eval(), x[:2])
    other = {
        name: w.double() + 0.03 * torch.randn(w.shape, dtype=torch.float64) * (not name.startswith("norm"))
        for name, w in graph.tensors.items()
    }
    box = Interval((x.double() - 0.03)[:, None], (x.double() + 0.03)[:, None])
    return Networks.of(without_max_pools(graph), graph.tensors, other, LIKE), [box]


def largest_difference(a: Backward, b: Backward) -> float:
    gaps = [0.0]
    for node, value in a.bounds.items():
        if isinstance(value, Pair) and isinstance(value.before, Interval):
            for part in ("before", "after", "change"):
                x, y = getattr(value, part), getattr(b.bounds[node], part)
                if isinstance(x, Interval):
                    gaps += [float((x.lower - y.lower).abs().max()), float((x.upper - y.upper).abs().max())]
    return max(gaps)


@pytest.fixture
def seen_by_windows(monkeypatch: pytest.MonkeyPatch) -> list[Window]:
    """The windows that linear ops were passed with."""
    found = list[Window]()
    inner = linear.passed

    def spy(*arguments: object) -> object:
        found.append(arguments[-1])  # type: ignore[arg-type]
        return inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(linear, "passed", spy)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_windows_are_rows_of_the_whole_image(
    name: str, seen_by_windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    networks, boxes = both(FORMS[name])
    by_windows = tighten.bounded(networks, boxes)
    assert seen_by_windows
    monkeypatch.setattr(tighten, "_fits_windows", lambda engine, paths, node: False)
    seen_by_windows.clear()
    assert largest_difference(by_windows, tighten.bounded(networks, boxes)) <= 1e-9
    assert not seen_by_windows
    intervals = tighten.bounded(networks, boxes, linear=False)
    assert largest_difference(by_windows, intervals) > 1e-3  # the rows did tell something


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_what_windows_do_not_pass_is_bounded_all_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    networks, boxes = both(DENSE[name])
    found = tighten.bounded(networks, boxes)
    monkeypatch.setattr(tighten, "_fits_windows", lambda engine, paths, node: False)
    assert largest_difference(found, tighten.bounded(networks, boxes)) <= 1e-9


@pytest.mark.slow
def test_windows_that_outgrow_a_small_image(
    seen_by_windows: list[Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A residual stream whose one path sees all of the image and whose other sees a corner of it."""
    torch.manual_seed(1)
    net = Net(lambda net, x: net.second(torch.relu(net.second(torch.relu(net.second(x))))) + x, padding=1)
    networks, boxes = both(net, size=5)
    by_windows = tighten.bounded(networks, boxes)
    assert any(w.height * w.width >= 25 for w in seen_by_windows)
    monkeypatch.setattr(tighten, "_fits_windows", lambda engine, paths, node: False)
    assert largest_difference(by_windows, tighten.bounded(networks, boxes)) <= 1e-9


def test_windows_by_hand() -> None:
    box = torch.tensor([0, 0])
    a = Window(box, torch.tensor([0, 2]), torch.tensor([1, 3]), 2, 2)
    b = Window(box, torch.tensor([1, 3]), torch.tensor([0, 2]), 1, 1)
    assert not move_apart(a, b)
    union = joined([a, b])
    assert (union.top.tolist(), union.left.tolist(), union.height, union.width) == ([0, 2], [0, 2], 2, 3)
    one, two = torch.arange(1.0, 9).reshape(2, 1, 1, 2, 2), torch.tensor([10.0, 20]).reshape(2, 1, 1, 1, 1)
    total = added([(one, a), (two, b)], union)
    assert total is not None and total[0, 0, 0].tolist() == [[0, 1, 2], [10, 3, 4]]
    assert total[1, 0, 0].tolist() == [[0, 5, 6], [20, 7, 8]] and added([], union) is None
    assert move_apart(a, Window(box, torch.tensor([1, 1]), torch.tensor([0, 2]), 1, 1))
    corner = Window(
        box[:1], torch.tensor([-1]), torch.tensor([1]), 2, 2
    )  # its first row lies above the image
    spread = whole(torch.arange(1.0, 5.0).reshape(1, 1, 1, 2, 2), corner, (1, 1, 3, 3))
    assert spread[0, 0, 0].tolist() == [[0, 3, 4], [0, 0, 0], [0, 0, 0]]


def test_windows_with_gaps_by_hand() -> None:
    """Every second row and third column, from (1, 0): places (1, 0), (1, 3), (3, 0) and (3, 3)."""
    start = torch.tensor([0])
    apart = Window(start, start + 1, start, 2, 2, (2, 3))
    assert apart.extent == (3, 4)
    union = joined([apart, Window(start, start, start, 1, 1)])
    assert (union.top.tolist(), union.left.tolist(), union.height, union.width) == ([0], [0], 4, 4)
    assert union.steps == (1, 1)
    spread = added([(torch.arange(1.0, 5).reshape(1, 1, 1, 2, 2), apart)], union)
    assert spread is not None
    assert spread[0, 0, 0].tolist() == [[0, 0, 0, 0], [1, 0, 0, 2], [0, 0, 0, 0], [3, 0, 0, 4]]
    assert not apart.leaves((1, 1, 4, 4)) and apart.leaves((1, 1, 4, 3)) and apart.leaves((1, 1, 3, 4))
    assert apart.inside((1, 1, 3, 4))[0, 0, 0].tolist() == [[True, True], [False, False]]
