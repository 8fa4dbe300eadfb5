"""Rules for the strings in the graph of a `.pt2` archive, by the key that they stand under.

Each gives an empty text where a string is harmless, otherwise the reason to refuse it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from secateur.formats import gru
from secateur.formats.pt2.expressions import expression

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,999}")
# No quotes, backslashes, braces or line breaks.
PLAIN_TEXT = re.compile(r"[A-Za-z0-9_ .,:;+\-*/<>=()\[\]]{0,10000}")


def plain_text(value: str) -> str:
    return "" if PLAIN_TEXT.fullmatch(value) else "holds characters that could become source code"


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


def operator(value: str) -> str:
    library, _, name = value.partition(".")
    if value in (*_TORCH_OPS, gru.NAME) or (library in ("_operator", "math") and name in _PYTHON_OPS):
        return ""
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", value, re.ASCII)
    packet = getattr(torch.ops.aten, match[1], None) if match and match[1] not in _FILE_OPS else None
    if match and isinstance(packet, torch._ops.OpOverloadPacket) and match[2] in packet.overloads():
        return ""
    return "is not an ATen op or plain arithmetic, and could be any function"


_CONTAINERS = frozenset(("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"))


def _tree(value: str, key_rule: Callable[[str], str]) -> str:
    """A tree spec of plain containers; others import the modules that they name, or run own decoders."""
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
    return _tree(value, plain_text)


# JSON key → rule for the strings under it: '' where the string is harmless, otherwise the reason to refuse
# it. A string under any other key must be plain text.
STRING_RULES: dict[str, Callable[[str], str]] = {
    "expr_str": expression,
    "target": operator,
    "as_operator": operator,
    "in_spec": _input_tree,
    "out_spec": _output_tree,
    "name": _name,
    "as_name": _name,
    "forward_arg_names": _name,
    "class_fqn": _custom_class,
}
