"""Products with a weight, seen as torch has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import AFTER, LINEAR


def as_torch_has_it(
    nodes: Sequence[Node], constants: Mapping[str, Tensor], outputs: Sequence[str]
) -> tuple[list[Node], set[str], set[str]]:
    """Products with a weight, and the sum with a bias that follows, as torch's linear layers; slopes as rows.

    Their graphs are then those of the same network from torch, and so are the choices that are made on them.
    """
    uses = Counter(name for n in nodes for name in n.inputs) + Counter(outputs)
    readers = {name: n for n in nodes for name in n.inputs}
    transposed, flat, gone = set[str](), set[str](), set[int]()
    found = list[Node]()
    for node in nodes:
        if id(node) in gone:
            continue
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        own = weight in constants and uses[weight] == 1
        if node.kind == "MatMul" and own and constants[weight].ndim == 2:
            bias, add = _bias_after(node, readers, uses, constants, constants[weight].shape[1])
            if add is not None:
                gone.add(id(add))
            given = (node.inputs[0], weight, *([bias] if bias else []))
            made = add.outputs if add is not None else node.outputs
            node = replace(node, kind=LINEAR, inputs=given, outputs=made)
            transposed.add(weight)
        elif node.kind == "Gemm" and own and not node.attribute("transB", 0):
            node = replace(node, attributes=node.attributes | {"transB": 1})
            transposed.add(weight)
        elif node.kind == "PRelu" and own and max(constants[weight].shape) == constants[weight].numel():
            shape = list(constants[weight].shape)
            after = len(shape) - 1 - shape.index(max(shape))
            node = replace(node, attributes=node.attributes | {AFTER: after})
            flat.add(weight)
        found.append(node)
    return found, transposed, flat


def _bias_after(
    node: Node, readers: Mapping[str, Node], uses: Mapping[str, int], constants: Mapping[str, Tensor], width: int
) -> tuple[str, Node | None]:
    """The bias that alone is added to the node's result, and the sum."""
    add = readers.get(node.outputs[0])
    if add is None or add.kind != "Add" or uses[node.outputs[0]] != 1:
        return "", None
    other = next((name for name in add.inputs if name != node.outputs[0]), "")
    if other not in constants or tuple(constants[other].shape) != (width,):
        return "", None
    return other, add
