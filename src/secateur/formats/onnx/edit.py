"""Small edits of an ONNX protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from graphlib import TopologicalSorter
from typing import Any

from torch import Tensor

from secateur.errors import VerificationError
from secateur.formats.onnx.tensors import to_proto

Proto = Any


def put_constant(proto: Proto, name: str, tensor: Tensor) -> None:
    """In place of an initializer, or of the node that makes the constant."""
    new = to_proto(tensor, name)
    for t in proto.graph.initializer:
        if t.name == name:
            t.CopyFrom(new)
            for value in proto.graph.input:  # older models list their initializers there, too
                if value.name == name:
                    set_dims(value, tensor.shape)
            return
    for node in proto.graph.node:
        if name in node.output:
            new.name = ""
            node.op_type = "Constant"
            del node.input[:]
            del node.attribute[:]
            node.attribute.add(name="value", type=4).t.CopyFrom(new)
            return
    raise VerificationError(
        f"{name} is no constant of the model. This is a fault in secateur; please report it"
    )


def set_dims(info: Proto, shape: Sequence[int | None]) -> None:
    for dim, size in zip(info.type.tensor_type.shape.dim, shape, strict=False):
        if size is not None and dim.HasField("dim_value"):
            dim.dim_value = size


def set_attribute(node: Proto, name: str, value: Any) -> None:
    """Set it, or with None take it away."""
    import onnx

    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend(kept if value is None else [*kept, onnx.helper.make_attribute(name, value)])


def in_order(proto: Proto) -> Proto:
    """The model itself, each node after those whose outputs it reads, as ONNX asks; quantisers append theirs
    at the end.
    """
    makers = {name: i for i, node in enumerate(proto.graph.node) for name in node.output if name}
    nodes = list(proto.graph.node)
    before = {i: [makers[n] for n in node.input if n in makers] for i, node in enumerate(nodes)}
    order = list(TopologicalSorter(before).static_order())
    del proto.graph.node[:]
    proto.graph.node.extend(nodes[i] for i in order)
    return proto


def drop_unread(proto: Proto) -> None:
    """Remove weights that no node reads."""
    read = {name for node in proto.graph.node for name in node.input} | {v.name for v in proto.graph.output}
    kept = [t for t in proto.graph.initializer if t.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
