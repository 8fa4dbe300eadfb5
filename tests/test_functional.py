"""Writes into views: the graph computes what the model does at any batch size, and the rest can be pruned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import CaptureError
from secateur.graph.capture import capture
from secateur.graph.interpret import run


class Dense(nn.Module):
    def __init__(self, write: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()
        self.make, self.read, self.write = nn.Linear(4, 8), nn.Linear(8, 3), write

    def forward(self, x: Tensor) -> Tensor:
        y = self.make(x).relu()
        written = self.write(y)
        return self.read(y if written is None else written)  # type: ignore[no-any-return]


class Conv(Dense):
    def __init__(self, write: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__(write)
        self.make, self.read = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)  # type: ignore[assignment]


def first_unit(y: Tensor) -> None:
    y[:, 0] = 0


def last_unit(y: Tensor) -> None:
    y[:, -1] = 1.5


def half(y: Tensor) -> None:
    y[:, :4] *= 2


def overlapping(y: Tensor) -> None:
    y[:, 2:5] = y[:, 3:6] + 1


def every_second(y: Tensor) -> None:
    y[:, ::2] += 1


def odd_ones(y: Tensor) -> None:
    y[:, 1::2].mul_(3)


def pieces(y: Tensor) -> Tensor:
    a, b = y.chunk(2, 1)
    a += 1
    b.mul_(2)
    return y


def unbound(y: Tensor) -> None:
    for row in y.unbind(1)[:2]:
        row.zero_()


def through_other_shapes(y: Tensor) -> None:
    y.view(-1, 2, 4)[:, 0].add_(1)
    y.t()[3] = 7.0


def view_before_base(y: Tensor) -> Tensor:
    view = y[:, :4]
    y += 1
    return torch.cat([view, y[:, 4:]], 1)


def views_of_views(y: Tensor) -> None:
    outer = y[:, :4]
    outer[:, :2].zero_()
    outer.add_(1)
    y.mul_(2)


def one_by_one(y: Tensor) -> None:
    for i in range(3):
        y[:, i] = y[:, i] * (i + 2)


def mask(y: Tensor) -> None:
    y[y > 0.5] = 0.0


def of_samples(y: Tensor) -> None:
    y[y.sum(1) > 1] = 0.0


def indices(y: Tensor) -> None:
    y[:, [0, 3]] = 0.0


def first_sample(y: Tensor) -> None:
    y[0] = 0


def nothing_and_all(y: Tensor) -> None:
    y[:, 3:3] = 0
    y[:, :] = y * 2


def broadcast(y: Tensor) -> None:
    y[:, 0:2] = y.mean(1, keepdim=True)


def rows_and_patches(y: Tensor) -> None:
    y[:, :, 0] = 0
    y[..., 1:3, 2:] += 1


def strided_patches(y: Tensor) -> None:
    y[:, :, ::2, 1::2] = 0


def other_half(y: Tensor) -> None:
    y[:, :4] = y[:, 4:].clone()


def flattened(y: Tensor) -> None:
    y.flatten(2)[:, :, 0] = 0


def permuted(y: Tensor) -> None:
    y.permute(0, 2, 3, 1)[..., 2] = 1


def uneven_split(y: Tensor) -> Tensor:
    a, b = y.split([3, 5], 1)
    a.relu_()
    b.sigmoid_()
    return torch.cat([b, a], 1)


def columns_by_index(y: Tensor) -> None:
    y[:, :, [0, 2]] = 0.0


# write → units that can be pruned (of 8)
WRITES: dict[Callable[[Tensor], Tensor | None], int] = {
    **{
        first_unit: 7,
        last_unit: 7,
        half: 8,
        overlapping: 6,
        every_second: 4,
        odd_ones: 4,
        pieces: 4,
        unbound: 0,
    },
    **{through_other_shapes: 3, view_before_base: 8, views_of_views: 8, mask: 8, of_samples: 0, indices: 0},
    **{one_by_one: 5, first_sample: 8, nothing_and_all: 8, broadcast: 0},
}
WRITES_IN_MAPS: dict[Callable[[Tensor], Tensor | None], int] = {
    **{rows_and_patches: 8, strided_patches: 8, other_half: 4, flattened: 8, permuted: 7, uneven_split: 8},
    **{columns_by_index: 8},
}
CASES = [*((Dense, w, n) for w, n in WRITES.items()), *((Conv, w, n) for w, n in WRITES_IN_MAPS.items())]


def built(kind: type[Dense], write: Callable[[Tensor], Tensor | None]) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    example = torch.rand(2, 4) if kind is Dense else torch.rand(2, 3, 6, 6)
    return kind(write).eval().requires_grad_(False), example


@pytest.mark.sweep
@pytest.mark.parametrize(("kind", "write", "units"), CASES, ids=lambda x: getattr(x, "__name__", str(x)))
def test_writes_into_views(kind: type[Dense], write: Callable[[Tensor], Tensor | None], units: int) -> None:
    model, example = built(kind, write)
    graph = capture(model, example)
    for node in graph.nodes:
        assert not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable), node
    for batch in (1, 3, 5):
        x = torch.randn(batch, *example.shape[1:])
        torch.testing.assert_close(run(graph, [x])[0], model(x.clone()))
    found = sum(group.units for group in secateur.inspect(model, example).prunable)
    assert found == units
    if units:
        small = secateur.prune(model, example, remove=0.5, method="scale").model
        assert small(example).shape == model(example).shape
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "write", "units"),
    [
        (Dense, first_unit, 7),
        (Dense, half, 8),
        (Dense, odd_ones, 4),
        (Dense, mask, 8),
        (Conv, rows_and_patches, 8),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_writes_in_a_decomposed_program(
    kind: type[Dense], write: Callable[[Tensor], Tensor | None], units: int
) -> None:
    """torch's own functional form: `slice_scatter`, `select_scatter`, `fill` and `copy`."""
    model, example = built(kind, write)
    free = {0: torch.export.Dim("batch", min=2)}
    program = torch.export.export(model, (example,), dynamic_shapes=(free,), strict=False).run_decompositions(
        {}
    )
    graph = capture(program)
    x = torch.randn(3, *example.shape[1:])
    torch.testing.assert_close(run(graph, [x])[0], model(x.clone()))
    assert sum(group.units for group in secateur.inspect(program).prunable) == units


def test_the_default_method_takes_units_that_are_written_over_first() -> None:
    model, example = built(Dense, zeroed_half)
    result = secateur.prune(model, example, remove=0.5, samples=64)
    (kept,) = (g.kept for g in result.recipe.groups)
    assert kept == (4, 5, 6, 7)
    torch.testing.assert_close(result.model(example), model(example), rtol=1e-3, atol=1e-3)


def zeroed_half(y: Tensor) -> None:
    y[:, :4] = 0


def test_indices_of_the_code_follow_the_units_that_stay() -> None:
    """`:4` stands in forward, so that the class cannot follow, and the graph is handed out."""
    model, example = built(Dense, half)
    small = secateur.prune(model, example, remove=0.5, method="scale").model
    assert isinstance(small, torch.fx.GraphModule)
    kept = secateur.prune(model, example, remove=0.5, method="scale").recipe.groups[0].kept
    y = model.make(example).relu()  # type: ignore[operator]
    half(y)
    wanted = y[:, list(kept)] @ model.read.weight[:, list(kept)].T + model.read.bias  # type: ignore[index,operator]
    torch.testing.assert_close(small(example), wanted)


class WritesInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x[:, 0] *= 3
        return self.b(self.a(x).relu())  # type: ignore[no-any-return]


def test_a_model_that_writes_to_its_input_keeps_its_class() -> None:
    model = WritesInput().eval()
    result = secateur.prune(model, torch.rand(2, 4), remove=0.5, method="scale")
    assert type(result.model) is WritesInput


def diagonal(y: Tensor) -> None:
    torch.diagonal(y).fill_(0)


def uneven_stride(y: Tensor) -> None:
    y[:, :7:3] = 0


@pytest.mark.parametrize("write", [diagonal, uneven_stride])
def test_other_views_are_named_with_their_line(write: Callable[[Tensor], Tensor | None]) -> None:
    model, example = built(Dense, write)
    with pytest.raises(
        CaptureError, match=r"fill_ \(aten\.fill_.*test_functional\.py line \d+: .*writes into a view"
    ):
        capture(model, example)


class WritesBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen[0] = 0.0  # type: ignore[operator]  # what it is already
        return x + self.seen  # type: ignore[operator]


def test_a_buffer_that_is_written_is_named() -> None:
    with pytest.raises(CaptureError, match=r"changes its own buffers when it runs \(seen\)"):
        capture(WritesBuffer().eval(), torch.rand(2, 4))
