"""An ONNX file as a checked protobuf with all of its weights.

Nothing in the file is run, fetched or trusted.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from math import prod
from pathlib import Path
from typing import Any, Literal

from secateur.errors import InputError, UnsupportedOpError
from secateur.formats.onnx.branches import with_branches_taken
from secateur.formats.onnx.host import RULES
from secateur.formats.onnx.node import OWN_DOMAINS, kind_of
from secateur.formats.onnx.table import OPS
from secateur.formats.onnx.tensors import TYPES

LIMIT = 2**31 - 1  # bytes of one protobuf message; protobuf's own limit
OLDEST, NEWEST = 9, 24  # opsets whose meaning the rules know
_KNOWN = {"Constant", "If", *OPS, *RULES}
_BYTES = {number: dtype.itemsize for number, dtype in TYPES.items()}  # by ONNX data type
# Where values lie that are not raw; of other types, in int32_data.
_FIELDS = {1: "float_data", 7: "int64_data", 11: "double_data"}
_MOST_NODES, _DEEPEST = 200_000, 64  # ops once functions are written out, functions inside functions

Proto = Any  # onnx.ModelProto and its parts, which carry no useful types
Quantized = Literal["none", "qdq", "any"]  # what a model that is read may be


def require_packages(*names: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"ONNX models need packages that are not installed: pip install {' '.join(missing)}")


class QuantizedFileError(UnsupportedOpError):
    """The file holds a quantised model."""


def read_proto(path: str | os.PathLike[str], *, quantized: Quantized = "none") -> Proto:
    """The model in the file at `path`, with its weights and with functions inlined.

    Raises `InputError` where it cannot be used, `QuantizedFileError` for a quantised model that `quantized`
    does not allow: `qdq` allows the QDQ form, `any` every op that onnxruntime has.

    Weights in files beside it are read only from the model's own folder, and only where sizes agree.
    """
    require_packages("onnx")
    import onnx
    from google.protobuf.message import DecodeError

    file = Path(path)
    try:
        size = file.stat().st_size
        if not file.is_file():
            raise InputError(f"{path} is no file; give the path of an .onnx file")
        if size > LIMIT:
            raise InputError(f"{path} has {size:,} bytes, and one ONNX file holds at most {LIMIT:,}")
        model = onnx.ModelProto.FromString(file.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except DecodeError as error:
        raise InputError(f"{path} is not an ONNX model, or is cut short: {error}") from error
    check_text(path, model)
    _leave_open(model)
    check_ops(path, model, quantized)
    _check_functions(path, model)
    _load_external(path, model, file.parent)
    check_proto(path, model)
    if quantized != "none":
        return model
    return _without_branches(path, _inlined(path, model) if model.functions else model)


def _without_branches(path: str | os.PathLike[str], model: Proto) -> Proto:
    """The model with the branches taken that are known to be; checked again where there are any."""
    taken = with_branches_taken(model, opset_of(model))
    if taken is not model:
        check_text(path, taken)
        check_ops(path, taken)
        check_proto(path, taken)
    _refuse(
        path, [n for n in taken.graph.node if _has_graphs(n)],
        "holds ops with graphs inside, which depend on data",
        "export it without control flow, or with fixed sizes",
    )  # fmt: skip
    return taken


def _leave_open(model: Proto) -> None:
    """Sizes of −1 and 0, with which older exporters say that an axis is free, are taken out."""
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value in (-1, 0):
                dim.ClearField("dim_value")


def check_text(path: str | os.PathLike[str], model: Proto) -> None:
    """Names are text; protobuf hands bytes on where they are not."""
    if any(not isinstance(text, str) for text in _texts(model)) or not all(map(_decodes, _settings(model))):
        raise InputError(f"{path} is not an ONNX model: it is damaged, names in it are not text")


def _texts(model: Proto) -> Iterator[Any]:
    for part in (*model.opset_import, *(o for f in model.functions for o in f.opset_import)):
        yield part.domain
    for function in model.functions:
        yield from (function.name, function.domain, function.overload)
        yield from (*function.input, *function.output, *function.attribute)
    for value in (*model.graph.input, *model.graph.output):
        yield value.name
        yield from (d.dim_param for d in value.type.tensor_type.shape.dim)
    for node in _nodes(model):
        yield from (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output)
        yield from (text for a in node.attribute for text in (a.name, a.ref_attr_name))
    for tensor in tensors_of(model):
        yield tensor.name
        yield from (text for e in tensor.external_data for text in (e.key, e.value))


def _settings(model: Proto) -> Iterator[bytes]:
    return (text for n in _nodes(model) for a in n.attribute for text in (a.s, *a.strings))


def _decodes(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def check_ops(path: str | os.PathLike[str], model: Proto, quantized: Quantized = "none") -> None:
    """Only what the importer can know the meaning of: no subgraphs, no other domains, no quantised ops but
    those that `quantized` allows.
    """
    if not model.graph.node:
        raise InputError(f"{path} is not an ONNX model: it has no graph of ops")
    opset = opset_of(model)
    if not OLDEST <= opset <= NEWEST:
        said = f"opset {opset}" if opset else "no opset"
        raise InputError(f"{path} uses {said}; convert it to one of {OLDEST} to {NEWEST}")
    functions = {_key(f) for f in model.functions}
    nodes = [n for n in _nodes(model) if _call(n) not in functions]
    integers = [n for n in nodes if _is_quantized(n) and not _ALLOWED[quantized](n)]
    if integers:
        raise QuantizedFileError(
            f"{path} is quantised; prune or certify the floating-point model that it was made of, and "
            "quantise last. `secateur evaluate` measures quantised files as they are. Quantised are "
            f"{_described(integers)}"
        )
    for is_refused, what, instead in _REFUSED:
        _refuse(path, [n for n in nodes if is_refused(n)], what, instead)


def _has_no_rule(node: Proto) -> bool:
    return kind_of(node) not in _KNOWN and not _can_stay_whole(node)


def _can_stay_whole(node: Proto) -> bool:
    """Whether an op without a rule is one on numbers, which onnxruntime may run as it is (see `whole`)."""
    import onnx

    known = node.domain not in OWN_DOMAINS or onnx.defs.has(node.op_type)
    return known and not _NOT_NUMBERS.search(node.op_type)


def _has_graphs(node: Proto) -> bool:
    return any(a.type in (5, 10) or a.HasField("g") or a.graphs for a in node.attribute)


_RUN_ALONE = ("com.microsoft", "ai.onnx.ml")  # whose ops onnxruntime runs where they have no rule
_ONE_PROCESSOR = ("com.microsoft.nchwc", "com.ms.internal.nhwc")
_NOT_NUMBERS = re.compile(
    "Sequence|Optional|String|Tokenizer|TfIdf|Regex|Loss|Map|ImageDecoder|Dict|Search|Sampling|EPContext"
)
_QUANTIZED = re.compile(
    "Q[A-Z]|Dequantize|Quantize|DynamicQuantize|MatMul(Integer|NBits|Bnb4|Fp|Block)|ConvInteger|.*Quantized"
)


QDQ = ("QuantizeLinear", "DequantizeLinear")  # beside ops that are those of a float model
_ALLOWED: dict[Quantized, Callable[[Proto], bool]] = {
    "none": lambda n: False,
    "qdq": lambda n: n.op_type in QDQ,
    "any": lambda n: True,
}


def _is_quantized(node: Proto) -> bool:
    return node.domain in (*OWN_DOMAINS, *_RUN_ALONE) and _QUANTIZED.match(node.op_type) is not None


# Whether a node is refused, what the file then does, and what to do instead.
_REFUSED: tuple[tuple[Callable[[Proto], bool], str, str], ...] = (
    (
        lambda n: n.domain in _ONE_PROCESSOR,
        "holds ops that onnxruntime has made for one processor",
        "save it with the graph optimization level ORT_ENABLE_EXTENDED, or prune the model that it was made "
        "of",
    ),
    (
        lambda n: n.domain not in (*OWN_DOMAINS, *_RUN_ALONE),
        "holds ops of domains that onnxruntime does not have",
        "export it without them",
    ),
    (
        lambda n: n.op_type != "If" and _has_graphs(n),
        "holds ops with graphs inside, which depend on data",
        "export it without control flow",
    ),
    (_has_no_rule, "holds ops that have no rule", "export the model without them"),
)


def _refuse(path: str | os.PathLike[str], nodes: list[Proto], what: str, instead: str) -> None:
    if nodes:
        raise UnsupportedOpError(f"{path} {what}: {_described(nodes)}; {instead}")


def opset_of(model: Proto) -> int:
    return max((int(o.version) for o in model.opset_import if o.domain in OWN_DOMAINS), default=0)


def _nodes(model: Proto) -> Iterator[Proto]:
    """Of the graph and of functions."""
    yield from model.graph.node
    for function in model.functions:
        yield from function.node


def _described(nodes: list[Proto], most: int = 5) -> str:
    told = [f"{_plain(kind_of(n))} {n.name or (n.output[0] if n.output else '')!r}" for n in nodes[:most]]
    return ", ".join(told) + (f" and {len(nodes) - most} more" if len(nodes) > most else "")


def _plain(kind: str) -> str:
    return kind if kind.replace(".", "_").isidentifier() else repr(kind)


# --- functions ----------------------------------------------------------------------------------------------


def _key(function: Proto) -> tuple[str, str, str]:
    return function.domain, function.name, function.overload


def _call(node: Proto) -> tuple[str, str, str]:
    return node.domain, node.op_type, node.overload


def _inlined(path: str | os.PathLike[str], model: Proto) -> Proto:
    """The model with its functions written out where they are called, and checked again."""
    from onnx.inliner import inline_local_functions

    try:
        model = inline_local_functions(model)
    except Exception as error:  # the inliner has several families of its own
        raise InputError(f"{path}: its functions cannot be written out: {_one_line(error)}") from error
    if model.functions:
        names = ", ".join(repr(f.name) for f in model.functions)
        raise UnsupportedOpError(
            f"{path}: the functions {names} cannot be written out; export it without functions"
        )
    check_ops(path, model)
    check_proto(path, model)
    return model


def _check_functions(path: str | os.PathLike[str], model: Proto) -> None:
    """No function calls itself, and the inlined functions are not too many or too deep."""
    functions = {_key(f): f for f in model.functions}
    if len(functions) < len(model.functions):
        raise InputError(f"{path}: a function is there twice")
    calls = {key: {_call(n) for n in f.node} & functions.keys() for key, f in functions.items()}
    try:
        order = list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        names = " → ".join(repr(name) for _, name, _ in reversed(error.args[1]))
        raise InputError(f"{path}: a function calls itself: {names}; export the model without it") from error
    sizes = dict[tuple[str, str, str], tuple[int, int, int]]()  # ops, bytes, functions inside functions
    for key in order:
        sizes[key] = _written_out(functions[key].node, sizes)
    nodes, size, depth = _written_out(model.graph.node, sizes)
    if nodes > _MOST_NODES or size > LIMIT or depth > _DEEPEST:
        raise InputError(
            f"{path}: its functions written out are {nodes:,} ops of {size:,} bytes, {depth} levels deep; at "
            f"most {_MOST_NODES:,}, {LIMIT:,} and {_DEEPEST} are read. Export the model without functions"
        )


def _written_out(
    nodes: Iterable[Proto], sizes: dict[tuple[str, str, str], tuple[int, int, int]]
) -> tuple[int, int, int]:
    found = [sizes.get(_call(n), (1, n.ByteSize(), 0)) for n in nodes]
    return (
        sum(n for n, _, _ in found),
        sum(b for _, b, _ in found),
        max((d for _, _, d in found), default=0) + 1,
    )


# --- structure ----------------------------------------------------------------------------------------------


def check_proto(path: str | os.PathLike[str], model: Proto) -> None:
    """Structure by ONNX's own checker, and declared sizes against the bytes that are there."""
    import onnx

    for tensor in tensors_of(model):
        _check_tensor(path, tensor)
    _check_dense(path, model)
    _check_names(path, model.graph)
    for value in inputs_of(model):
        _check_input(path, value)
    if not model.graph.output:
        raise InputError(f"{path}: the graph has no outputs; export a model that gives something")
    _check_order(path, model)
    try:
        onnx.checker.check_model(_for_checker(model), full_check=False)
    except (onnx.checker.ValidationError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a valid ONNX model: {_one_line(error)}; export it again") from error


def _check_dense(path: str | os.PathLike[str], model: Proto) -> None:
    attributes = [a for n in _nodes(model) for a in n.attribute]
    sparse = [t.values.name for t in model.graph.sparse_initializer]
    sparse += [a.name for a in attributes if a.HasField("sparse_tensor") or a.sparse_tensors]
    if sparse:
        raise UnsupportedOpError(
            f"{path}: the sparse tensor {sparse[0]!r} has no rule; export it as a dense one"
        )


def _check_names(path: str | os.PathLike[str], graph: Proto) -> None:
    for what, parts in (("initializer", graph.initializer), ("input", graph.input), ("output", graph.output)):
        if twice := [name for name, count in Counter(p.name for p in parts).items() if count > 1]:
            raise InputError(f"{path}: the {what} {twice[0]!r} is there twice; each needs a name of its own")


def _for_checker(model: Proto) -> Proto:
    """The model, or a copy whose ops of onnxruntime are not among ONNX's own, as the checker asks."""
    opset = opset_of(model)
    since = {"LayerNormalization": 17, "SimplifiedLayerNormalization": NEWEST + 1}
    if not any(n.domain in OWN_DOMAINS and opset < since.get(n.op_type, 0) for n in model.graph.node):
        return model
    twin = type(model)()
    twin.CopyFrom(model)
    for node in twin.graph.node:
        if node.domain in OWN_DOMAINS and opset < since.get(node.op_type, 0):
            node.domain = _RUN_ALONE[0]
    if _RUN_ALONE[0] not in {o.domain for o in twin.opset_import}:
        twin.opset_import.add(domain=_RUN_ALONE[0], version=1)
    return twin


def inputs_of(model: Proto) -> list[Proto]:
    """Inputs that have no value in the model."""
    given = {t.name for t in model.graph.initializer}
    return [v for v in model.graph.input if v.name not in given]


def _check_input(path: str | os.PathLike[str], value: Proto) -> None:
    """Tensors of numbers with a batch axis; axes may be open."""
    kind = value.type.tensor_type
    if not value.type.HasField("tensor_type") or kind.elem_type not in TYPES:
        what = _type_name(kind.elem_type) if value.type.HasField("tensor_type") else "no tensor"
        raise UnsupportedOpError(
            f"{path}: the input {value.name!r} is of type {what}; only numbers have rules"
        )
    if not kind.shape.dim:
        raise InputError(f"{path}: the input {value.name!r} has no batch axis; export the model with one")
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    known = [n for n in sizes if n is not None]
    if any(n < 0 for n in known) or prod(known) > LIMIT:
        raise InputError(
            f"{path}: the input {value.name!r} has the shape {sizes}; export it with sizes that can be run"
        )


def _type_name(data_type: int) -> str:
    import onnx

    names = {int(number): str(name).lower() for name, number in onnx.TensorProto.DataType.items()}
    return names.get(data_type, str(data_type))


def _check_order(path: str | os.PathLike[str], model: Proto) -> None:
    """Every value is made before it is read, and once."""
    graph = model.graph
    known = {t.name for t in graph.initializer} | {v.name for v in graph.input} | {""}
    made = {name for n in graph.node for name in n.output}
    for node in graph.node:
        for name in node.input:
            if name not in known:
                why = (
                    "made only later, or from itself"
                    if name in made
                    else "no input, no initializer and never made"
                )
                raise InputError(
                    f"{path}: {_described([node])} reads {name!r}, which is {why}; export it again"
                )
        for name in node.output:
            if name and name in known:
                raise InputError(
                    f"{path}: {_described([node])} makes {name!r}, which is there already; export it again"
                )
            known.add(name)
    for output in graph.output:
        if not output.name or output.name not in known:
            raise InputError(f"{path}: nothing makes the output {output.name!r}; export the model again")


def tensors_of(model: Proto) -> Iterator[Proto]:
    """Initializers and the tensors of attributes."""
    yield from model.graph.initializer
    for node in _nodes(model):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _check_tensor(path: str | os.PathLike[str], tensor: Proto) -> None:
    """The size that is declared is the size of the data, before anything of that size is made."""
    name, dims = repr(tensor.name) if tensor.name else "a constant", list(tensor.dims)
    if tensor.data_type not in _BYTES:
        what = _type_name(tensor.data_type)
        raise UnsupportedOpError(
            f"{path}: {name} of shape {dims} is of type {what}; only common numbers have rules"
        )
    if any(d < 0 for d in dims) or prod(d for d in dims if d) > LIMIT:
        raise InputError(
            f"{path}: {name} declares the shape {dims}, which no tensor has; export the model again"
        )
    item, count = _BYTES[tensor.data_type], prod(dims)
    if tensor.HasField("raw_data"):
        given, rest = divmod(len(tensor.raw_data), item)
    else:
        given, rest = len(getattr(tensor, _FIELDS.get(tensor.data_type, "int32_data"))), 0
    if count != given or rest:
        held = f"{len(tensor.raw_data):,} bytes" if rest else f"{given:,}"
        raise InputError(
            f"{path}: {name} declares the shape {dims}, {count:,} numbers, and holds {held}; the file is "
            "damaged"
        )


# --- weights in other files ---------------------------------------------------------------------------------


def _load_external(path: str | os.PathLike[str], model: Proto, folder: Path) -> None:
    """Weights in files beside the model, in place of the references to them."""
    total = model.ByteSize()
    outside = [t for t in tensors_of(model) if t.data_location == 1]
    for tensor in outside:
        entries = {e.key: e.value for e in tensor.external_data}
        location = entries.get("location", "")
        try:
            target = _beside(path, location, folder, tensor.name)
            size = target.stat().st_size
            offset, length = _place(path, tensor, entries, size)
            total += length
            if total > LIMIT:
                raise InputError(
                    f"{path} has more than {LIMIT:,} bytes with its weights, which cannot be run"
                )
            with open(target, "rb") as file:
                file.seek(offset)
                tensor.raw_data = file.read(length)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{path}: cannot read {tensor.name!r} from {location!r}: {reason}") from error
        tensor.data_location = 0
        del tensor.external_data[:]
    if outside:
        model.metadata_props.add(key=EXTERNAL, value="1")


EXTERNAL = "secateur.external_data"  # a note to the writer, which takes it out again


def _place(
    path: str | os.PathLike[str], tensor: Proto, entries: dict[str, str], size: int
) -> tuple[int, int]:
    """(first byte, number of bytes), as the model and the tensor's shape both say."""
    location = entries["location"]
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
    except ValueError:
        raise InputError(f"{path}: {tensor.name!r} has no numbers for its place in {location!r}") from None
    declared = prod(tensor.dims) * _BYTES.get(tensor.data_type, 0)
    if (
        offset < 0
        or length < 0
        or offset + length > size
        or length != declared
        or any(d < 0 for d in tensor.dims)
    ):
        raise InputError(
            f"{path}: {tensor.name!r} of shape {list(tensor.dims)} needs {declared:,} bytes; the model names "
            f"bytes {offset:,} to {offset + length:,} of {location!r}, which has {size:,}. Copy the file "
            "again"
        )
    return offset, length


def _beside(path: str | os.PathLike[str], location: str, folder: Path, name: str) -> Path:
    """The file in the model's own folder; any other is refused."""
    relative = Path(location)
    if (
        not location
        or relative.is_absolute()
        or ".." in relative.parts
        or any(sign in location for sign in "\\:\0")
    ):
        raise InputError(
            f"{path}: {name!r} is said to lie in {location!r}; only files in the model's folder are read"
        )
    target = folder / relative
    if not target.exists():
        raise InputError(
            f"{path}: {name!r} lies in {location!r}, which is not there; put it beside the model"
        )
    if not target.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path}: {name!r} lies in {location!r}, which leads out of the model's folder; put it there"
        )
    if not target.is_file():
        raise InputError(
            f"{path}: {name!r} is said to lie in {location!r}, which is no file; export the model again"
        )
    return target


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
