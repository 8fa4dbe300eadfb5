"""Check a `.pt2` archive, and rewrite the parts that were checked, before torch sees any of it.

torch's own loader trusts the file. It unpickles without `weights_only` (weights marked `use_pickle`, `.pt`
weight files of older layouts, `custom_obj_*` and `opaque_obj_*` constants, and sample inputs where the
weights-only unpickler fails); it loads compiled code (`data/aotinductor/`); it hands `expr_str` to
`sympy.sympify`, which evaluates; it looks a node's `target` up with `getattr` from `torch` (`torch.os.system`
is one); it imports modules named in tree specs; and it pastes `guards_code`, node names, argument names and
string constants into Python source that is then executed.

So the rule is default-deny. Every record must be one that a plain export writes; every string in the JSON
must match the narrow pattern of its place; sample inputs pass torch's weights-only unpickler. torch then
reads a copy that this file has written from what it has read, so that two zip readers cannot disagree on what
the archive holds.
"""

from __future__ import annotations

import ast
import io
import json
import math
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.errors import InputError
from secateur.files import refusals_named
from secateur.graph.export import first_line

JSON_LIMIT = 128 << 20  # bytes of one JSON record; a 100-layer network needs less than 2 MiB

REEXPORT = (
    "If you trust the model, load it where it was made and export it again: "
    "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')"
)

_MODEL = "models/model.json"
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_WEIGHTS_CONFIG, _CONSTANTS_CONFIG = (
    _WEIGHTS + "model_weights_config.json",
    _CONSTANTS + "model_constants_config.json",
)
_INPUTS = "data/sample_inputs/model.pt"
_FORMAT, _VERSION, _ZIP_VERSION, _BYTE_ORDER = (
    "archive_format",
    "archive_version",
    ".data/version",
    "byteorder",
)
_NEEDED = (_FORMAT, _VERSION, _ZIP_VERSION, _MODEL, _WEIGHTS_CONFIG, _CONSTANTS_CONFIG, _INPUTS)

_PLAIN_RECORD = re.compile(r"data/weights/weight_\d+|data/constants/tensor_\d+")
_IGNORED_RECORD = re.compile(r"\.data/serialization_id|extra/.*")
_REFUSED_RECORDS: tuple[tuple[str, str], ...] = (
    (r"data/aotinductor/", "compiled code, which would run on loading"),
    (r"data/constants/(custom_obj|opaque_obj)_", "a pickled Python object, which can run code on loading"),
    (
        r"data/(weights|constants)/.*\.pt$",
        "pickled tensors of an older layout, which can run code on loading",
    ),
    (r"serialized_\w+\.(pt|json)$", "the layout of torch 2.7 and older, whose weights are pickled"),
    (r"data\.pkl$|.*/data\.pkl$|code/", "TorchScript or pickled weights, which can run code on loading"),
    (r"models/", "a second model; only one named 'model' is read"),
)

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,999}")
_TEXT = re.compile(
    r"[A-Za-z0-9_ .,:;+\-*/<>=()\[\]]{0,10000}"
)  # no quotes, backslashes, braces or line breaks
_SYMBOL = re.compile(r"[A-Za-z_]{1,64}[0-9]{0,6}")
_NUMBER = re.compile(r"-?[0-9.]{1,40}(e[+-]?[0-9]{1,3})?")


def clean_copy(path: str | os.PathLike[str]) -> IO[bytes]:
    """A temporary file with those parts of the `.pt2` at `path` that are data and nothing else, ready for
    torch.

    Raises `InputError` naming the part at fault, why it is refused, and how to export the model again.
    """
    with refusals_named(f"cannot copy {path} to the folder for temporary files, {tempfile.gettempdir()}"):
        copy = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
        try:
            with _opened(path) as archive:
                _rewrite(archive, copy)
            copy.seek(0)
        except BaseException:
            with suppress(OSError):  # what could not be written cannot be flushed
                copy.close()
            raise
    return copy


class _Archive:
    """The records of a zip file by their names below its one root folder; sizes are those on disk, in
    bytes.
    """

    def __init__(self, path: str | os.PathLike[str], source: zipfile.ZipFile, length: int) -> None:
        self.path, self.source = path, source
        infos = [info for info in source.infolist() if not info.is_dir()]
        if (
            min((info.header_offset for info in infos), default=0) != 0
        ):  # a cut file may end in an inner archive
            raise zipfile.BadZipFile("something stands before the first record")
        self.records = {self._below_root(info): info for info in infos}
        if len({name.lower() for name in self.records}) != len(infos):
            self.refuse("the list of records", "holds the same name twice")
        if sum(info.file_size for info in infos) > length:
            self.refuse("the list of records", f"declares more bytes than the file has ({length})")

    def _below_root(self, info: zipfile.ZipInfo) -> str:
        parts = info.filename.split("/")
        if "\\" in info.filename or info.filename.startswith("/") or {"", ".", ".."} & set(parts):
            self.refuse(info.filename, "has an absolute name or steps out of the archive")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & 1
        ):
            self.refuse(info.filename, "is compressed or encrypted; torch stores records as they are")
        return info.filename.split("/", 1)[-1]

    def refuse(self, part: str, why: str) -> NoReturn:
        raise InputError(f"{self.path}: {part} {why}. {REEXPORT}")

    def read(self, name: str, limit: int) -> bytes:
        if self.records[name].file_size > limit:
            self.refuse(name, f"is larger than {limit} bytes")
        return self.source.read(self.records[name])

    def json(self, name: str) -> Any:
        try:
            return json.loads(self.read(name, JSON_LIMIT).decode())
        except (ValueError, RecursionError) as error:
            self.refuse(name, f"is not the JSON that torch writes ({first_line(error)})")


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Archive]:
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as source:
            yield _Archive(path, source, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
        UnicodeDecodeError,
    ) as error:
        raise InputError(
            f"{path} is not a .pt2 archive, or is cut short or damaged ({first_line(error)}); fetch or "
            "export it again"
        ) from error


def _rewrite(archive: _Archive, copy: IO[bytes]) -> None:
    payloads = _check_records(archive)
    model, weights, constants = (archive.json(name) for name in (_MODEL, _WEIGHTS_CONFIG, _CONSTANTS_CONFIG))
    _check_payloads(archive, _WEIGHTS_CONFIG, weights, _WEIGHTS)
    _check_payloads(archive, _CONSTANTS_CONFIG, constants, _CONSTANTS)
    model = _clean_model(archive, model)
    inputs = _clean_inputs(archive)
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for name, content in (
            (_FORMAT, b"pt2"),
            (_VERSION, archive.read(_VERSION, limit=16)),
            (_ZIP_VERSION, archive.read(_ZIP_VERSION, limit=16)),
            (_BYTE_ORDER, b"little"),
            (_MODEL, json.dumps(model).encode()),
            (_WEIGHTS_CONFIG, json.dumps(weights).encode()),
            (_CONSTANTS_CONFIG, json.dumps(constants).encode()),
            (_INPUTS, inputs),
        ):
            target.writestr(f"model/{name}", content)
        for name in payloads:
            into = zipfile.ZipInfo(f"model/{name}")
            into.file_size = archive.records[name].file_size
            with archive.source.open(archive.records[name]) as reader, target.open(into, "w") as writer:
                shutil.copyfileobj(reader, writer, 1 << 20)


def _check_records(archive: _Archive) -> list[str]:
    """The names of the raw tensors, once every record is known to be of a kind that is plain data."""
    plain = []
    for name in archive.records:
        reason = next(
            (why for pattern, why in _REFUSED_RECORDS if name != _MODEL and re.match(pattern, name)), None
        )
        if reason is not None:
            archive.refuse(name, f"is {reason}")
        if _PLAIN_RECORD.fullmatch(name):
            plain.append(name)
        elif name not in (*_NEEDED, _BYTE_ORDER) and not _IGNORED_RECORD.fullmatch(name):
            archive.refuse(name, "is not a record that a plain export writes")
    missing = [name for name in _NEEDED if name not in archive.records]
    if missing:
        archive.refuse(
            missing[0], "is missing: this is not what torch.export.save of torch 2.9 or newer writes"
        )
    if archive.read(_FORMAT, limit=16) != b"pt2":
        archive.refuse(_FORMAT, "does not say pt2")
    if _BYTE_ORDER in archive.records and archive.read(_BYTE_ORDER, limit=16) != b"little":
        archive.refuse(_BYTE_ORDER, "is not little; the weights are those of another kind of machine")
    return plain


def _check_payloads(archive: _Archive, part: str, config: Any, folder: str) -> None:
    """Each tensor must lie inside its record, unpickled: a header cannot ask for memory that the file does
    not fill.
    """
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        archive.refuse(part, "has no table of tensors")
    for fqn, entry in entries.items():
        if not _TEXT.fullmatch(fqn):
            archive.refuse(part, f"names a tensor {fqn[:60]!r}, which is not a plain name")
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            archive.refuse(f"{fqn} in {part}", "is marked as pickled, which can run code on loading")
        record = f"{folder}{entry.get('path_name')}"
        if not _PLAIN_RECORD.fullmatch(record) or record not in archive.records:
            archive.refuse(
                f"{fqn} in {part}", f"points to {record[:80]!r}, which is no tensor record of the archive"
            )
        needed, available = (
            _declared_bytes(archive, f"{fqn} in {part}", entry),
            archive.records[record].file_size,
        )
        if needed > available:
            archive.refuse(f"{fqn} in {part}", f"declares {needed} bytes but its record holds {available}")
        entry["tensor_meta"]["device"] = _CPU


def _declared_bytes(archive: _Archive, part: str, entry: Mapping[str, Any]) -> int:
    try:
        meta = entry["tensor_meta"]
        sizes, strides = ([_whole(n) for n in meta[key]] for key in ("sizes", "strides"))
        offset, width = _whole(meta["storage_offset"]), _ITEM_BYTES[meta["dtype"]]
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} sizes but {len(strides)} strides")
    except (KeyError, TypeError, ValueError) as error:
        archive.refuse(part, f"has no valid shape and type ({first_line(error)})")
    if 0 in sizes:
        return 0
    reach = offset + 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    return width * max(reach, math.prod(sizes))


def _whole(number: Any) -> int:
    value = number["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is not a size")
    return value


# Bytes of an element by the number of its dtype in torch's schema (torch/_export/serde/schema.py,
# ScalarType).
_ITEM_BYTES = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 2,
    7: 4,
    8: 8,
    9: 4,
    10: 8,
    11: 16,
    12: 1,
    13: 2,
    28: 2,
    34: 4,
    35: 8,
}
_ITEM_BYTES |= dict.fromkeys(range(29, 34), 1)


def _clean_inputs(archive: _Archive) -> bytes:
    """The sample inputs, read by the weights-only unpickler and written anew; empty where there are none."""
    content = archive.read(_INPUTS, limit=archive.records[_INPUTS].file_size)
    if not content:
        return b""
    try:
        with zipfile.ZipFile(
            io.BytesIO(content)
        ) as inner:  # the older pickle layout is no zip, and is refused
            if any(info.compress_type != zipfile.ZIP_STORED for info in inner.infolist()):
                raise ValueError("compressed records")
        inputs = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tensors = [x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)]
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        if sum(storages.values()) > len(content):
            raise ValueError("tensors larger than the record that holds them")
        output = io.BytesIO()
        torch.save(inputs, output)
    except Exception as error:
        archive.refuse(
            _INPUTS,
            "holds sample inputs that are more than tensors, numbers, tuples, lists and dicts, "
            f"so that loading them could run code ({first_line(error)[:200]})",
        )
    return output.getvalue()


def _clean_model(archive: _Archive, model: Any) -> Any:
    """The graph's JSON on the CPU, without metadata and guards (which become source code), every string
    checked.
    """

    def refuse(place: str, value: str, why: str) -> NoReturn:
        shown = value if len(value) <= 80 else value[:77] + "…"
        archive.refuse(f"{_MODEL}: {place} {shown!r}", why)

    def check(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            for name in value:
                if not _TEXT.fullmatch(name):
                    refuse("the key", name, "is not a plain name")
            return {k: _REPLACED[k] if k in _REPLACED else check(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [check(item, key) for item in value]
        if isinstance(value, str):
            why = _STRING_RULES.get(key, _text)(value)
            if why:
                refuse(key, value, why)
        return value

    if not isinstance(model, dict):
        archive.refuse(_MODEL, "is not a JSON object")
    for name in model.get("range_constraints") or {}:
        if not _SYMBOL.fullmatch(name):
            refuse("range_constraints", name, "is not the name of a size")
    try:
        return check(model, "")
    except RecursionError:
        archive.refuse(_MODEL, "is nested too deeply")


_CPU = {"type": "cpu", "index": None}

# What torch can do without (guards only check inputs, metadata tells where a node came from), and where
# things go.
_REPLACED: dict[str, Any] = {"guards_code": [], "metadata": {}, "device": _CPU, "as_device": _CPU}


def _text(value: str) -> str:
    return "" if _TEXT.fullmatch(value) else "holds characters that could become source code"


def _name(value: str) -> str:
    return "" if not value or _IDENTIFIER.fullmatch(value) else "is not a name, and would become source code"


def _custom_class(value: str) -> str:
    return "is a custom object, which can run code"


_PYTHON_OPS = frozenset(
    "add sub mul floordiv truediv mod neg pow eq ne lt le gt ge and_ or_ not_ getitem trunc ceil "
    "floor".split()
)
_TORCH_OPS = frozenset(
    f"torch.{name}" for name in "sym_int sym_float sym_max sym_min sym_not sym_ite sym_sum _sym_sqrt".split()
)
_FILE_OPS = frozenset(("save", "from_file"))  # aten ops that write or map files


def _operator(value: str) -> str:
    library, _, name = value.partition(".")
    if value in _TORCH_OPS or (library in ("_operator", "math") and name in _PYTHON_OPS):
        return ""
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", value, re.ASCII)
    packet = getattr(torch.ops.aten, match[1], None) if match and match[1] not in _FILE_OPS else None
    if match and isinstance(packet, torch._ops.OpOverloadPacket) and match[2] in packet.overloads():
        return ""
    return "is not an ATen op or plain arithmetic, and could be any function"


_SYMPY_CALLS = frozenset(
    "Add Mul Pow Mod Max Min Abs Integer Rational Float Symbol Equality Unequality LessThan GreaterThan "
    "StrictLessThan "
    "StrictGreaterThan And Or Not FloorDiv ModularIndexing Where PythonMod CleanDiv CeilDiv CeilToInt "
    "FloorToInt "
    "PowByNatural FloatTrueDiv IntTrueDiv TruncToInt TruncToFloat RoundToInt ToFloat Identity".split()
)
_SYMPY_POWERS = frozenset(("Pow", "PowByNatural"))
_SYMPY_FLAGS = frozenset(
    "positive integer nonnegative negative nonpositive real rational zero nonzero finite even odd".split()
)
_EXPRESSION_LIMIT = 4096  # characters
_POWER_LIMIT = 4  # powers in one expression, each of at most 8


def _expression(value: str) -> str:
    """Sizes as torch writes them (`Mul(Integer(2), Symbol('s7', integer=True))`), or plain arithmetic on
    names.
    """
    why = "is not an arithmetic expression of sizes, and would be evaluated"
    if len(value) > _EXPRESSION_LIMIT or value.count("**") + value.count("Pow") > _POWER_LIMIT:
        return why
    if not re.fullmatch(r"[A-Za-z0-9_ .,+\-*/()='<>!&|~]*", value):
        return why
    try:
        return "" if _is_arithmetic(ast.parse(value, mode="eval").body) else why
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return why


def _is_arithmetic(node: ast.expr, depth: int = 24) -> bool:
    def below(*children: ast.expr) -> bool:
        return depth > 0 and all(_is_arithmetic(child, depth - 1) for child in children)

    match node:
        case ast.Constant(value=bool()):
            return True
        case ast.Constant(value=int() | float() as number):
            return abs(number) < 2**63
        case ast.Name(id=name):
            return bool(_SYMBOL.fullmatch(name)) and (name in ("true", "false") or name[-1].isdigit())
        case ast.UnaryOp(op=ast.USub() | ast.Invert(), operand=operand):
            return below(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _is_small_power(right) and below(left)
        case ast.BinOp(
            left=left,
            op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() | ast.BitAnd() | ast.BitOr(),
            right=right,
        ):
            return below(left, right)
        case ast.Compare(left=left, comparators=[right]):
            return below(left, right)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _SYMPY_CALLS:
            if not all(_is_flag(keyword) for keyword in keywords):
                return False
            if name in ("Symbol", "Float"):
                return _is_quoted(args, _SYMBOL if name == "Symbol" else _NUMBER)
            if name in _SYMPY_POWERS:
                return len(args) == 2 and _is_small_power(args[1]) and below(args[0])
            return below(*args)
    return False


def _is_flag(keyword: ast.keyword) -> bool:
    match keyword.value:
        case ast.Constant(value=None | bool()):
            return keyword.arg in _SYMPY_FLAGS
        case ast.Constant(value=int() as bits):
            return keyword.arg == "precision" and 0 < bits <= 1024
    return False


def _is_quoted(args: list[ast.expr], pattern: re.Pattern[str]) -> bool:
    match args:
        case [ast.Constant(value=str() as text)]:
            return bool(pattern.fullmatch(text))
    return False


def _is_small_power(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            return _is_small_power(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _is_small_power(inner)
        case ast.Constant(value=int() as number):
            return number <= 8  # a tower of powers would be evaluated for ever
    return False


_CONTAINERS = frozenset(("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"))


def _tree(value: str, key_rule: Callable[[str], str]) -> str:
    """A tree spec of plain containers: others import the modules that they name, or run their own
    decoders.
    """
    why = "is not made of tuples, lists and dicts with plain keys, and could import code"
    try:
        version, spec = json.loads(value)
        plain = version == 1 and _is_plain_tree(spec, key_rule)
    except (ValueError, TypeError, KeyError, RecursionError):
        return why
    return "" if plain else why


def _is_plain_tree(spec: Mapping[str, Any], key_rule: Callable[[str], str]) -> bool:
    if spec["type"] is None:
        return spec["context"] is None and not spec["children_spec"]
    keys = json.loads(spec["context"]) if isinstance(spec["context"], str) else spec["context"]
    plain_keys = keys is None or (
        isinstance(keys, list) and all(type(k) is int or (type(k) is str and not key_rule(k)) for k in keys)
    )
    return (
        spec["type"] in _CONTAINERS
        and plain_keys
        and all(_is_plain_tree(s, key_rule) for s in spec["children_spec"])
    )


def _input_tree(value: str) -> str:
    return _tree(value, _name)


def _output_tree(value: str) -> str:
    return _tree(value, _text)


# JSON key → rule for the strings under it: '' where the string is harmless, otherwise the reason to refuse
# it. A string under any other key must be plain text.
_STRING_RULES: dict[str, Callable[[str], str]] = {
    "expr_str": _expression,
    "target": _operator,
    "as_operator": _operator,
    "in_spec": _input_tree,
    "out_spec": _output_tree,
    "name": _name,
    "as_name": _name,
    "forward_arg_names": _name,
    "class_fqn": _custom_class,
}
