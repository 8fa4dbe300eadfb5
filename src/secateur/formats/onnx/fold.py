"""Values that depend on constants and shapes alone, such as a detector's anchors: computed, not captured.

A node is one of these where each of its inputs is a constant, the shape of a value, or made by such a node.
The ops in `FOLDED` may then have data-dependent shapes (NonZero) and are evaluated on plain numbers by ONNX's
own reference.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.formats.onnx.budget import numbers_made
from secateur.formats.onnx.node import Node

Proto = Any
FOLDED = set(
    "Abs Add And ArgMax ArgMin BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Clip Compress "
    "Concat ConstantOfShape Cos CumSum Div Equal Exp Expand EyeLike Flatten Floor Gather GatherElements "
    "GatherND Greater GreaterOrEqual Identity IsInf IsNaN Less LessOrEqual Log Max Min Mod Mul Neg NonZero "
    "Not OneHot Or Pad Pow Range Reciprocal ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum Reshape "
    "Round ScatterElements ScatterND Sigmoid Sign Sin Slice Split Sqrt Squeeze Sub Sum Tan Tanh Tile TopK "
    "Transpose Trilu Unique Unsqueeze Where Xor".split()
)
FOLDED_BYTES = 2**28  # of one value
_SHAPES = ("Shape", "Size")


def value_free(nodes: Iterable[Node], constants: Iterable[str]) -> set[str]:
    """Names of the constants and of the values that no input of the model changes once its shape is known."""
    free = {"", *constants}
    for node in nodes:
        if node.kind in _SHAPES or free.issuperset(node.inputs):
            free.update(node.outputs)
    return free


def on_numbers(nodes: Sequence[Node], rules: Iterable[str], constants: Iterable[str]) -> set[str]:
    """First outputs of the nodes evaluated on numbers: of ops that only `FOLDED` has, and before."""
    known, wanted, found = set(rules), set[str](), set[str]()
    there = set(constants)
    for node in reversed(nodes):
        alone = node.kind in FOLDED and node.kind not in known
        if alone or not wanted.isdisjoint(node.outputs):
            if node.kind not in _SHAPES:
                wanted.update(set(node.inputs) - there)
            found.add(node.outputs[0])
    return found


def read_as_numbers(
    nodes: Sequence[Node], constants: Mapping[str, Tensor], numbers: Container[str]
) -> set[str]:
    """Constants that may be read as numbers: by nodes in `numbers`, beside their results, or integers."""
    free, found = value_free(nodes, constants), set[str]()
    for node in nodes:
        if node.kind not in FOLDED:
            continue
        own = [name for name in node.inputs if name in constants and constants[name].dtype != torch.bfloat16]
        made = [name for name in node.inputs if name and name not in constants]
        if node.outputs[0] in numbers or (made and free.issuperset(made)):
            found.update(own)
        found.update(name for name in own if not constants[name].is_floating_point())
    return found


def is_plain(value: Any) -> bool:
    """Whether an array holds numbers alone, no free batch."""
    return (
        value is None or value.dtype != object or all(isinstance(n, bool | int | float) for n in value.flat)
    )


def folded(node: Node, given: Sequence[Any]) -> list[np.ndarray[Any, Any]]:
    """The node's results on arrays of numbers, in their types. Sizes are checked before anything is made."""
    from onnx import ValueInfoProto, helper
    from onnx.reference import ReferenceEvaluator

    arrays = [None if value is None else as_numbers(value) for value in given]
    size = numbers_made(node, arrays) * 8
    if size > FOLDED_BYTES:
        raise InputError(
            f"{node} works out {size:,} bytes from shapes and constants, at most {FOLDED_BYTES:,} are; "
            "export it folded"
        )
    proto = node.proto
    inputs = [name for name in dict.fromkeys(proto.input) if name]
    outputs = [name for name in proto.output if name]
    told = [[ValueInfoProto(name=name) for name in names] for names in (inputs, outputs)]
    graph = helper.make_graph([proto], "one", told[0], told[1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.opset)])
    fed = {name: array for name, array in zip(proto.input, arrays, strict=False) if name}
    found = dict(zip(outputs, ReferenceEvaluator(model).run(None, fed), strict=True))
    return [np.asarray(found[name]) if name else np.zeros(0) for name in proto.output]


def as_numbers(value: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In a type of numpy's: whole numbers, truth values, or floats as models have them."""
    if value.dtype != object:
        return value
    flat = list(value.flat)
    if any(isinstance(v, float) for v in flat):
        return value.astype(np.float32)
    return value.astype(bool if flat and all(isinstance(v, bool) for v in flat) else np.int64)
