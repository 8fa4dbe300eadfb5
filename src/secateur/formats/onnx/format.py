"""The format of `.onnx` files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.formats.content import Content
from secateur.formats.format import Format, PathLike

if TYPE_CHECKING:
    from secateur.formats.format import Model
    from secateur.graph.example import ExampleInputs


def _matches(content: Content) -> bool:
    """A protobuf with a version, a graph and opsets."""
    fields = content.fields
    return fields.get(1) == 0 and fields.get(7) == 2 and fields.get(8) == 2


def _load(path: str) -> Model:
    from secateur.formats.onnx.files import load_onnx

    return load_onnx(path)


def _save(path: PathLike, model: Model, example_inputs: ExampleInputs | None) -> None:
    from secateur.formats.onnx.files import save_as_onnx

    save_as_onnx(path, model, example_inputs)


def _check_packages(source: str) -> None:
    from secateur.formats.onnx.read import require_packages

    exported = source != "onnx"  # a model that was read from ONNX is written without torch's exporter
    require_packages("onnx", "onnxruntime", *(("onnxscript",) if exported else ()))


def _companions(path: Path) -> tuple[Path, ...]:
    """Weights outside of the file."""
    return (path.with_name(f"{path.name}.data"),)


def _came_from(model: object) -> bool:
    from secateur.formats.onnx.as_is import OnnxFile
    from secateur.formats.onnx.imported import OnnxModel

    return isinstance(model, OnnxModel | OnnxFile)


def _proto(model: Any) -> Any:
    from secateur.formats.onnx.read import read_proto

    return model.proto if _came_from(model) else read_proto(model)


def _fixed_batch(model: Any) -> int | None:
    found: int | None = model.batch
    return found


ONNX = Format(
    name="onnx",
    suffixes=(".onnx",),
    matches=_matches,
    magic=(0, b"\x08"),
    load=_load,
    save=_save,
    check_packages=_check_packages,
    companions=_companions,
    came_from=_came_from,
    runtime="onnxruntime",
    proto=_proto,
    fixed_batch=_fixed_batch,
)
