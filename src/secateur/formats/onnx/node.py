"""One op of an ONNX graph, its attributes read once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from secateur.errors import InputError
from secateur.formats.onnx.tensors import to_torch

Proto = Any
OWN_DOMAINS = ("", "ai.onnx")  # two names of one domain
_REQUIRED = object()


@dataclass(frozen=True, eq=False)
class Node:
    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    opset: int
    attributes: dict[str, Any] = field(default_factory=dict)
    batch: int | None = None  # the batch size that the model fixes, where it does
    proto: Proto = None

    @staticmethod
    def of(proto: Proto, opset: int, batch: int | None) -> Node:
        import onnx

        attributes = {}
        for a in proto.attribute:
            value = onnx.helper.get_attribute_value(a)
            if isinstance(value, onnx.TensorProto):
                value = to_torch(value).reshape(-1).tolist()
            attributes[a.name] = value.decode() if isinstance(value, bytes) else value
        inputs = list(proto.input)
        while inputs and not inputs[-1]:
            inputs.pop()
        name = proto.name or next((o for o in proto.output if o), "")
        return Node(kind_of(proto), name, tuple(inputs), tuple(proto.output), opset, attributes, batch, proto)

    def attribute(self, name: str, default: Any = _REQUIRED) -> Any:
        if name in self.attributes:
            value = self.attributes[name]
            return list(value) if isinstance(value, tuple) else value
        if default is _REQUIRED:
            raise InputError(f"{self} lacks the attribute {name}")
        return default

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def kind_of(proto: Proto) -> str:
    """The op's name, with its domain where that is not ONNX's own."""
    return proto.op_type if proto.domain in OWN_DOMAINS else f"{proto.domain}.{proto.op_type}"


def axes_of(node: Node, given: np.ndarray[Any, Any] | None) -> list[int] | None:
    """Axes, from an input (newer opsets) or the attribute; None for all."""
    if given is not None:
        return [int(a) for a in given.reshape(-1)]
    found = node.attribute("axes", None)
    return None if found is None else [int(a) for a in found]
