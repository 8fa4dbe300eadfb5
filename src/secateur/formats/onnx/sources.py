"""Values of an ONNX graph that nodes make from constants alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import OPS, SETTINGS
from secateur.formats.onnx.tensors import to_host

_SPREADS = {"Expand", "Tile", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice", "Cast"}
_ARITHMETIC = {"Add", "Sub", "Mul", "Div"}
# Ops that make nothing large of something small.
_FOLDED = (_SPREADS - {"Expand", "Tile"}) | _ARITHMETIC | {"Concat", "Split"}
_MOST = 2**28  # numbers in a weight


class Sources:
    """Of values by name."""

    def __init__(self, nodes: Sequence[Node], constants: Mapping[str, Tensor]) -> None:
        self.constants = constants
        self.makers = {name: node for node in nodes for name in node.outputs if name}
        self.names = {*constants, *self.makers}

    def free_name(self, name: str) -> str:
        while name in self.names:
            name += "_"
        self.names.add(name)
        return name

    def before_spreading(self, name: str) -> str:
        """The value of which this one is copies, as of a number that is expanded to the batch."""
        while name not in self.constants and name in self.makers and self.makers[name].kind in _SPREADS:
            name = self.makers[name].inputs[0]
        return name

    def is_zero(self, name: str) -> bool:
        """Whether every element is zero, whatever the shape."""
        source = self.before_spreading(name)
        return (
            not bool(self.constants[source].any())
            if source in self.constants
            else self.filled_with(source) == 0
        )

    def filled_with(self, name: str) -> float | None:
        """The number that ConstantOfShape fills the value with, where that makes it."""
        maker = self.makers.get(name)
        if maker is None or maker.kind != "ConstantOfShape":
            return None
        return maker.attribute("value", [0.0])[0]  # type: ignore[no-any-return]

    def constant(self, name: str) -> Tensor | None:
        """The value, where only constants make it. Cost: that of making it."""
        needed, pending = dict[str, Node](), [name]
        while pending:
            found = pending.pop()
            if found in self.constants or found in needed:
                continue
            maker = self.makers.get(found)
            if maker is None or maker.kind not in _FOLDED:
                return None
            needed |= dict.fromkeys(maker.outputs, maker)
            pending += filter(None, maker.inputs)
        values = dict(self.constants)
        for node in self.makers.values():  # in the order of the graph
            if needed.get(node.outputs[0]) is node and node.outputs[0] not in values:
                values.update(zip(node.outputs, _run(node, values), strict=False))
        return values[name]


def _run(node: Node, values: Mapping[str, Tensor]) -> Sequence[Tensor]:
    settings = SETTINGS.get(node.kind, set())
    given = [values[name] if name else None for name in node.inputs]
    sizes = [t.numel() for t in given if t is not None]
    broadcast = node.kind in _ARITHMETIC and all(size > 1 for size in sizes)
    if broadcast or sum(sizes) > _MOST:
        raise InputError(f"{node} makes weights that are too large; export the model with constants folded")
    told = [to_host(t, "") if t is not None and i in settings else t for i, t in enumerate(given)]
    made = OPS[node.kind](node, *told)
    results = made if isinstance(made, list | tuple) else [made]
    return [torch.as_tensor(t.astype(np.int64)) if isinstance(t, np.ndarray) else t for t in results]
