"""Where in the user's code a node of a graph, or an exception, comes from."""

from __future__ import annotations

import os
import re
import traceback

import torch
from torch import fx

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]+\n\s*([^\n]*)')
_LIBRARIES = tuple(
    os.path.join(os.path.dirname(path), "") for path in (torch.__file__, os.path.dirname(__file__))
)


def described(node: fx.Node) -> str:
    """The node, its op, its layer and the line of the user's code that calls it, as far as they are known."""
    if node.op == "get_attr":
        return f"the tensor {node.target}"
    place = place_of(node)
    return f"{node.name} ({node.target}{f', {place}' if place else ''})"


def place_of(node: fx.Node) -> str:
    """The layer and the line of the user's code; empty where neither is known."""
    layer, source = layer_of(node), source_of(node)
    return ", ".join(part for part in (f"layer {layer}" if layer else "", source) if part)


def layer_of(node: fx.Node) -> str:
    """The name of the innermost submodule that calls the op; empty for the model itself and where unknown."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return str(stack[-1][0]) if stack else ""


def source_of(node: fx.Node) -> str:
    """`net.py line 12: y[:, 0] = 0`, the innermost line outside of torch; empty where it is not known."""
    frames = [
        (path, int(line), code) for path, line, code in _FRAME.findall(node.meta.get("stack_trace") or "")
    ]
    return _innermost(frames)


def source_of_error(error: BaseException) -> str:
    """The innermost line outside of torch that ran when the exception was raised; empty without one."""
    frames = traceback.extract_tb(error.__traceback__)
    return _innermost([(frame.filename, frame.lineno or 0, frame.line or "") for frame in frames])


def _innermost(frames: list[tuple[str, int, str]]) -> str:
    for path, line, code in reversed(frames):
        if os.path.isfile(path) and not path.startswith(_LIBRARIES):
            return f"{_short(path)} line {line}: {code}" if code else f"{_short(path)} line {line}"
    return ""


def _short(path: str) -> str:
    """Relative to the current folder where that contains it."""
    here = os.getcwd()
    return os.path.relpath(path, here) if path.startswith(here + os.sep) else path
