"""Values that are made as large as another, `Expand(0, Shape(y))`: their units are those of the other."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import EXPANDED_LIKE, FILLED_LIKE

_PASSES = {"Cast", "Identity"}


def as_large_as(nodes: Sequence[Node], constants: Iterable[str], numbers: Container[str]) -> list[Node]:
    """ConstantOfShape and Expand told the whole shape of a value that depends on the inputs: they read the value.

    Values in `numbers` are worked out as numbers; what makes them is left as it is.
    """
    shape_of, free, found = dict[str, str](), {"", *constants}, list[Node]()
    for node in nodes:
        if node.kind == "Shape" and node.attribute("start", 0) == 0 and "end" not in node.attributes:
            if node.inputs[0] not in free:
                shape_of[node.outputs[0]] = node.inputs[0]
            free.update(node.outputs)
        elif node.kind in _PASSES and node.inputs[0] in shape_of:
            shape_of[node.outputs[0]] = shape_of[node.inputs[0]]
        elif node.outputs[0] in numbers:
            pass
        elif node.kind == "ConstantOfShape" and node.inputs[0] in shape_of:
            node = replace(node, kind=FILLED_LIKE, inputs=(shape_of[node.inputs[0]],))
        elif node.kind == "Expand" and node.inputs[1] in shape_of:
            node = replace(node, kind=EXPANDED_LIKE, inputs=(node.inputs[0], shape_of[node.inputs[1]]))
        if node.kind == "Size" or free.issuperset(node.inputs):
            free.update(node.outputs)
        found.append(node)
    return found
