"""What `write_vnnlib` writes can be read by others, and says what it should."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur.bounds.box import input_box
from secateur.bounds.joint import Networks
from secateur.bounds.tighten import bounded
from secateur.certify.vnnlib import write_vnnlib
from secateur.errors import CaptureError, InputError
from secateur.graph.capture import capture
from secateur.types import Interval


def networks() -> tuple[nn.Module, nn.Module, Tensor]:
    """A small network, and the same with a channel less."""
    torch.manual_seed(0)

    def net(channels: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, channels, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * channels, 2)
        ).eval()

    f, g = net(3), net(2)
    g[0].weight.data, g[0].bias.data = f[0].weight.data[:2].clone(), f[0].bias.data[:2].clone()
    g[3].weight.data, g[3].bias.data = f[3].weight.data[:, :8].clone(), f[3].bias.data.clone()
    return f, g, torch.rand(2, 1, 4, 4)


def claim(f: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The box [0, 0.3]¹⁶ and bounds on the drift there, by masking the channel."""
    graph = capture(f, x)
    masked = {**graph.tensors, "3.weight": graph.tensors["3.weight"].index_fill(1, torch.arange(8, 12), 0.0)}
    (box,) = input_box(graph, (0.0, 0.3))
    like = torch.zeros(0, dtype=torch.float64)
    engine = bounded(
        Networks.of(graph, graph.tensors, masked, like), [Interval(box.lower[None], box.upper[None])]
    )
    drift = engine.bounds[graph.outputs[0]].change
    return box.lower[0], box.upper[0], drift.lower[0, 0], drift.upper[0, 0]


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, tuple[Tensor, ...], nn.Module, nn.Module]:
    pytest.importorskip("onnx", reason="needs the extra onnx: pip install onnx onnxscript")
    pytest.importorskip("onnxscript", reason="needs the extra onnx: pip install onnx onnxscript")
    f, g, x = networks()
    found, path = claim(f, x), tmp_path_factory.mktemp("vnnlib") / "small.net"
    write_vnnlib(path, f, g, (x,), *found)
    return path, found, f, g


Written = tuple[Path, tuple[Tensor, ...], nn.Module, nn.Module]


def test_the_network_gives_the_drift(written: Written) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime: pip install onnxruntime")
    path, (lower, upper, low, high), f, g = written
    session = runtime.InferenceSession(f"{path}.onnx", providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    assert entry.shape == [1, 1, 4, 4] and entry.type == "tensor(float)"
    for seed in range(20):
        torch.manual_seed(seed)
        share = torch.rand(1, 1, 4, 4)
        x = (lower + (upper - lower) * (share.round() if seed % 2 else share)).float()
        (drift,) = session.run(None, {entry.name: x.numpy()})
        torch.testing.assert_close(torch.from_numpy(drift), (g(x) - f(x)).detach(), rtol=0, atol=1e-5)
        assert (drift >= low.numpy() - 1e-6).all() and (drift <= high.numpy() + 1e-6).all()


@pytest.mark.filterwarnings("ignore:literal negation does not strictly follow SMT-LIB:UserWarning")
def test_the_property_is_the_claim_negated(written: Written) -> None:
    vnnlib = pytest.importorskip("vnnlib.compat", reason="needs vnnlib: pip install 'vnnlib<1'")
    path, (lower, upper, low, high), _, _ = written
    ((box, disjuncts),) = vnnlib.read_vnnlib_simple(f"{path}.vnnlib", 16, 2)
    torch.testing.assert_close(
        torch.tensor(box, dtype=torch.float64), torch.stack([lower.flatten(), upper.flatten()], 1)
    )
    found = {
        tuple(map(float, row)): bound.item()
        for rows, bounds in disjuncts
        for row, bound in zip(rows, bounds, strict=True)
    }
    wanted = {(1.0, 0.0): low[0], (-1.0, 0.0): -high[0], (0.0, 1.0): low[1], (0.0, -1.0): -high[1]}
    assert found == pytest.approx({key: value.item() for key, value in wanted.items()})


def test_numbers_are_written_in_full(written: Written) -> None:
    path, (_, upper, _, _), _, _ = written
    text = Path(f"{path}.vnnlib").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("(assert (<= X_3 ")]
    assert float(line.split()[-1].rstrip(")")) == upper.flatten()[3].item() and len(line) > 60
    assert "(assert (>= X_3 0.0))" in text and "e-" not in text.split("Real)")[-1]


def test_the_models_stay_as_they_were(written: Written) -> None:
    _, _, f, g = written
    assert all(p.dtype == torch.float32 and p.requires_grad for m in (f, g) for p in m.parameters())


@pytest.mark.usefixtures("written")
def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    f, g, x = networks()
    lower, upper, low, high = claim(f, x)
    with pytest.raises(InputError, match=r"lower has shape \(16,\); give one of one sample, \(1, 4, 4\)"):
        write_vnnlib(tmp_path / "a", f, g, (x,), lower.flatten(), upper, low, high)
    with pytest.raises(InputError, match=r"drift_upper has shape \(3,\); give one of one sample, \(2,\)"):
        write_vnnlib(tmp_path / "a", f, g, (x,), lower, upper, low, torch.zeros(3))
    with pytest.raises(InputError, match="drift_lower is not finite"):
        write_vnnlib(tmp_path / "a", f, g, (x,), lower, upper, low - torch.inf, high)
    with pytest.raises(
        InputError, match=r"one tensor of the same shape, they give shape \(1, 2\) and shape \(1, 16\)"
    ):
        write_vnnlib(tmp_path / "a", f, nn.Flatten().eval(), (x,), lower, upper, low, high)
    with pytest.raises(InputError, match="networks of one input, this one has 2"):
        write_vnnlib(tmp_path / "a", f, g, (x, x), lower, upper, low, high)
    with pytest.raises(CaptureError, match="training mode"):
        write_vnnlib(tmp_path / "a", f, g.train(), (x,), lower, upper, low, high)
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    f, g, x = networks()
    there = importlib.util.find_spec
    hidden = lambda name, *rest: None if name in ("onnx", "onnxscript") else there(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hidden)
    with pytest.raises(InputError, match="pip install onnx onnxscript"):
        write_vnnlib(tmp_path / "a", f, g, (x,), *claim(f, x))
