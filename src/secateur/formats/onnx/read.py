"""An ONNX file as a checked protobuf with all of its weights. Nothing in the file is run, fetched or trusted."""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from secateur.errors import InputError, UnsupportedOpError

LIMIT = 2**31 - 1  # bytes of one protobuf message; protobuf's own limit
OLDEST, NEWEST = 9, 23  # opsets whose meaning the rules know
QUANTIZED = {
    *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"),
    *("QLinearConv", "QLinearMatMul"),
}
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8, 12: 4, 13: 8, 16: 2}  # by ONNX data type

Proto = Any  # onnx.ModelProto and its parts, which carry no useful types


def require_packages(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX models need packages that are not installed: pip install {' '.join(missing)}")


def read_proto(path: str | os.PathLike[str]) -> Proto:
    """The model in the file at `path`, weights in it, functions inlined; `InputError` where it cannot be used.

    Weights in files beside it are read only from the model's own folder, and only where sizes agree.
    """
    require_packages("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    file = Path(path)
    try:
        size = file.stat().st_size
        if size > LIMIT:
            raise InputError(f"{path} has {size:,} bytes, and one ONNX file holds at most {LIMIT:,}")
        model = onnx.ModelProto.FromString(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise InputError(f"{path} is not an ONNX model, or is cut short: {error}") from error
    check_ops(path, model)
    _load_external(path, model, file.parent)
    check_proto(path, model)
    if model.functions:
        from onnx.inliner import inline_local_functions

        model = inline_local_functions(model)
        check_ops(path, model)
    return model


def check_ops(path: str | os.PathLike[str], model: Proto) -> None:
    """Only what the importer can know the meaning of: no subgraphs, no other domains, no quantised ops."""
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX model: it has no graph of ops")
    opset = opset_of(model)
    if not OLDEST <= opset <= NEWEST:
        raise InputError(f"{path} uses opset {opset}; convert it to one of {OLDEST} to {NEWEST}")
    quantized = [n for n in model.graph.node if n.op_type in QUANTIZED]
    if quantized:
        raise UnsupportedOpError(
            f"{path} is quantised ({_described(quantized)}): prune the floating-point model first, then quantise it"
        )
    functions = {(f.domain, f.name) for f in model.functions}
    foreign = [n for n in model.graph.node if n.domain not in ("", "ai.onnx") and (n.domain, n.op_type) not in functions]
    if foreign:
        raise UnsupportedOpError(f"{path} holds ops of other domains than ONNX's own: {_described(foreign)}")
    branching = [n for n in model.graph.node if any(a.type in (5, 10) for a in n.attribute)]
    if branching:
        raise UnsupportedOpError(f"{path} holds ops with graphs inside, which depend on data: {_described(branching)}")


def opset_of(model: Proto) -> int:
    return max((int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def _described(nodes: list[Proto], most: int = 8) -> str:
    told = [f"{n.op_type} {n.name or (n.output[0] if n.output else '')!r}" for n in nodes[:most]]
    return ", ".join(told) + (f" and {len(nodes) - most} more" if len(nodes) > most else "")


def check_proto(path: str | os.PathLike[str], model: Proto) -> None:
    """Structure by ONNX's own checker, and declared sizes against the bytes that are there."""
    import onnx

    for tensor in tensors_of(model):
        _check_tensor(path, tensor)
    names = Counter(t.name for t in model.graph.initializer)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"{path}: the initializer {twice[0]!r} is there twice")
    _check_order(path, model)
    try:
        onnx.checker.check_model(model, full_check=False)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a valid ONNX model: {_one_line(error)}") from error


def _check_order(path: str | os.PathLike[str], model: Proto) -> None:
    """Every value is made before it is read, and once."""
    graph = model.graph
    known = {t.name for t in graph.initializer} | {v.name for v in graph.input} | {""}
    made = {name for n in graph.node for name in n.output}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                why = "made only later, or from itself" if name in made else "neither an input, an initializer nor made"
                raise InputError(f"{path}: {_described([node])} reads {name!r}, which is {why}")
        for name in node.output:
            if name and name in known:
                raise InputError(f"{path}: {_described([node])} makes {name!r}, which is there already")
            known.add(name)
    for output in graph.output:
        if output.name not in known:
            raise InputError(f"{path}: nothing makes the output {output.name!r}")


def tensors_of(model: Proto) -> Iterator[Proto]:
    """Initializers and the tensors of attributes."""
    yield from model.graph.initializer
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.type == 4:
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(path: str | os.PathLike[str], tensor: Proto) -> None:
    """The size that is declared is the size of the data, before anything of that size is made."""
    name, dims = tensor.name or "a constant", list(tensor.dims)
    if tensor.data_type not in _BYTES:
        raise UnsupportedOpError(f"{path}: {name} of shape {dims} has a data type ({tensor.data_type}) that is no number")
    if any(d < 0 for d in dims):
        raise InputError(f"{path}: {name} declares the shape {dims}")
    count = prod(dims)
    given = (
        len(tensor.raw_data) // _BYTES[tensor.data_type]
        if tensor.HasField("raw_data")
        else len(tensor.float_data)
        + len(tensor.int32_data)
        + len(tensor.int64_data)
        + len(tensor.double_data)
        + len(tensor.uint64_data)
    )
    if count != given or (tensor.HasField("raw_data") and len(tensor.raw_data) % _BYTES[tensor.data_type]):
        raise InputError(f"{path}: {name} declares the shape {dims}, {count:,} numbers, and holds {given:,}")


def _load_external(path: str | os.PathLike[str], model: Proto, folder: Path) -> None:
    """Weights in files beside the model, in place of the references to them."""
    total = 0
    for tensor in tensors_of(model):
        if tensor.data_location != 1:
            continue
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        target = _beside(path, location, folder, tensor.name)
        size = target.stat().st_size
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", size - int(entries.get("offset", 0))))
        except ValueError:
            raise InputError(f"{path}: {tensor.name!r} has no numbers for its place in {location!r}") from None
        declared = prod(tensor.dims) * _BYTES.get(tensor.data_type, 0)
        if offset < 0 or length < 0 or offset + length > size or length != declared or any(d < 0 for d in tensor.dims):
            raise InputError(
                f"{path}: {tensor.name!r} of shape {list(tensor.dims)} needs {declared:,} bytes; the model names bytes "
                f"{offset:,} to {offset + length:,} of {location!r}, which has {size:,}"
            )
        total += length
        with open(target, "rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.data_location = 0
        del tensor.external_data[:]
    if total:
        model.metadata_props.add(key=EXTERNAL, value="1")


EXTERNAL = "secateur.external_data"  # a note to the writer, which takes it out again


def _beside(path: str | os.PathLike[str], location: str, folder: Path, name: str) -> Path:
    """The file in the model's own folder; any other is refused."""
    relative = Path(location)
    if not location or relative.is_absolute() or ".." in relative.parts or "\\" in location or ":" in location:
        raise InputError(f"{path}: {name!r} is said to lie in {location!r}; only files in the model's folder are read")
    target = folder / relative
    if not target.is_file():
        raise InputError(f"{path}: {name!r} lies in {location!r}, which is not there; put it beside the model")
    if not target.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: {location!r} leads out of the model's folder; only files in it are read")
    return target


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
