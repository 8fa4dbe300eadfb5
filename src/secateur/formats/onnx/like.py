"""Values that are made as large as another, `Expand(0, Shape(y))`: their units are those of the other."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from secateur.formats.onnx.fold import value_free
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import EXPANDED_LIKE, FILLED_LIKE

_MOVES = {"Cast", "Concat", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Unsqueeze"}


def as_large_as(nodes: Sequence[Node], constants: Iterable[str], numbers: Container[str]) -> list[Node]:
    """Let ConstantOfShape and Expand read the value whose sizes they take, where it depends on the inputs.

    Whether these are all of its sizes is seen when the model is run. Values in `numbers` are left as they
    are.
    """
    source, free, found = dict[str, str](), value_free(nodes, constants), list[Node]()
    for node in nodes:
        data = node.inputs if node.kind == "Concat" else node.inputs[:1]
        of = {source.get(name, "") for name in data}
        if node.kind == "Shape" and node.inputs[0] not in free:
            source[node.outputs[0]] = node.inputs[0]
        elif node.kind in _MOVES and len(of) == 1 and "" not in of:
            source[node.outputs[0]] = of.pop()
        elif node.outputs[0] not in numbers and node.kind == "ConstantOfShape" and node.inputs[0] in source:
            node = replace(node, kind=FILLED_LIKE, inputs=(*node.inputs, source[node.inputs[0]]))
        elif node.outputs[0] not in numbers and node.kind == "Expand" and node.inputs[1] in source:
            node = replace(node, kind=EXPANDED_LIKE, inputs=(*node.inputs, source[node.inputs[1]]))
        found.append(node)
    return found
