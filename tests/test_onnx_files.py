"""ONNX files as they are written: one file or two, whole or not at all, from ONNX and from torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InputError, VerificationError
from secateur.graph import export as exporting

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 12), nn.ReLU(), nn.Linear(12, 3)
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "net.onnx"
    secateur.save_model(path, net().eval(), torch.rand(2, 1, 8, 8))
    return path


def answers(path: Path, x: Tensor) -> Tensor:
    session = ort.InferenceSession(str(path))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


@pytest.mark.sweep
@pytest.mark.parametrize("batch", [1, 5])
def test_torch_models_are_written_with_an_open_batch(file: Path, batch: int) -> None:
    x = torch.rand(batch, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(answers(file, x), net().eval()(x), rtol=1e-4, atol=1e-5)
    assert onnx.load(file).graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_param")


@pytest.mark.slow
def test_a_pruned_graph_module_and_program_are_written(tmp_path: Path) -> None:
    x = torch.rand(3, 1, 8, 8)
    program = torch.export.export(net().eval(), (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    small = secateur.prune(program, x, remove=0.4, method="scale").model
    secateur.save_model(tmp_path / "small.onnx", small, x)
    with torch.no_grad():
        torch.testing.assert_close(answers(tmp_path / "small.onnx", x), small(x), rtol=1e-4, atol=1e-5)


def test_weights_outside_stay_outside(file: Path, tmp_path: Path) -> None:
    model = onnx.load(file)
    path = tmp_path / "big.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="big.weights", size_threshold=256)
    small = secateur.prune(secateur.load_model(path), remove=0.5, method="scale").model
    out = tmp_path / "out"
    out.mkdir()
    secateur.save_model(out / "less.onnx", small)
    assert {p.name for p in out.iterdir()} == {"less.onnx", "less.onnx.data"}
    written = onnx.load(out / "less.onnx", load_external_data=False)
    assert any(t.data_location == 1 for t in written.graph.initializer)
    assert [p.key for p in written.metadata_props] == [p.key for p in model.metadata_props]
    x = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(answers(out / "less.onnx", x), small(x), rtol=1e-4, atol=1e-5)
    again = secateur.load_model(out / "less.onnx")
    with torch.no_grad():
        assert torch.equal(again(x), small(x))


def test_one_file_stays_one(file: Path, tmp_path: Path) -> None:
    small = secateur.prune(secateur.load_model(file), remove=0.5, method="scale").model
    secateur.save_model(tmp_path / "less.onnx", small)
    assert [p.name for p in tmp_path.iterdir()] == ["less.onnx"]


@pytest.mark.slow
def test_what_cannot_be_written_leaves_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.qr(x)[0]

    with pytest.raises(InputError, match="torch cannot write the model as ONNX"):
        secateur.save_model(tmp_path / "x.onnx", Sorted().eval(), torch.rand(2, 3, 3))
    with pytest.raises(InputError, match=r"must end in \.onnx"):
        from secateur.formats.onnx.files import load_onnx, save_onnx

        save_onnx(tmp_path / "x.txt", load_onnx(file))
    monkeypatch.setattr("secateur.formats.onnx.export.close", lambda ours, theirs: False)
    with pytest.raises(VerificationError, match="Nothing was written"):
        secateur.save_model(tmp_path / "x.onnx", net().eval(), torch.rand(2, 1, 8, 8))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_recipe_rebuilds_the_file(file: Path, tmp_path: Path) -> None:
    model = secateur.load_model(file)
    result = secateur.prune(model, remove=0.5)
    secateur.save_model(tmp_path / "a.onnx", result.model)
    secateur.save_model(tmp_path / "b.onnx", secateur.replay(secateur.load_model(file), result.recipe))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_certificates_of_imported_models(file: Path) -> None:
    model = secateur.load_model(file)
    small = secateur.prune(model, remove=0.3).model
    found = secateur.certify(model, small, inputs=torch.rand(3, 1, 8, 8), eps=0.01)
    assert found.found is not None and all(f <= d for f, d in zip(found.found, found.drift, strict=True))


def test_a_run_exports_an_imported_model_once(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The places of its values are noted on the way; a model that has changed since is captured again."""
    counted, export = list[str](), exporting._exported

    def counting(model: nn.Module, *given: Any) -> Any:
        counted.append(type(model).__name__)
        return export(model, *given)

    monkeypatch.setattr(exporting, "_exported", counting)
    model = secateur.load_model(file)
    assert isinstance(model, nn.Module)
    settings = {"remove": 0.5, "method": "scale", "normalize": "none", "round_to": 1}
    before = secateur.prune(model, **settings)
    assert counted == ["OnnxModel"] and before.after.units < before.before.units
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    after = secateur.prune(model, **settings)
    assert counted == ["OnnxModel"] * 2 and after.recipe.model.tensors != before.recipe.model.tensors
