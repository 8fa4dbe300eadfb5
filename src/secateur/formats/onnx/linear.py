"""Products with a weight, seen as torch has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from secateur.formats.onnx.microsoft import DOMAIN, TURNED, WITH_BIAS
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import AFTER, LINEAR

_PRODUCTS = {
    "Gemm",
    *(f"{DOMAIN}.{kind}" for kind in ("Attention", "FusedGemm", "FusedMatMul", "TransposeMatMul")),
}


def as_torch_has_it(
    nodes: Sequence[Node], constants: Mapping[str, Tensor], outputs: Sequence[str]
) -> tuple[list[Node], set[str], set[str]]:
    """Products with a weight, and the sum with a bias that follows, as torch's linear layers; slopes as rows.

    Their graphs are then those of the same network from torch, and so are the choices that are made on them.
    """
    uses = Counter(name for n in nodes for name in n.inputs) + Counter(outputs)
    readers = {name: n for n in nodes for name in n.inputs}
    transposed, flat, changed = set[str](), set[str](), dict[int, Node | None]()
    found = list[Node]()
    for original in nodes:
        node = changed.get(id(original), original)
        if node is None:
            continue
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        own = weight in constants and uses[weight] == 1
        if node.kind == "MatMul" and own and constants[weight].ndim == 2:
            transposed.add(weight)
            bias, reader = _bias_after(node, readers, uses, constants, constants[weight].shape[1])
            if reader is not None and reader.kind != "Add":
                changed[id(reader)] = _with_product(reader, node)
                continue
            if reader is not None:
                changed[id(reader)] = None
            given = (node.inputs[0], weight, *([bias] if bias else []))
            node = replace(node, kind=LINEAR, inputs=given, outputs=(reader or node).outputs)
        elif node.kind in _PRODUCTS and own and constants[weight].ndim == 2:
            if not node.attribute("transB", 0):
                transposed.add(weight)
            node = replace(node, attributes=node.attributes | {"transB": 1, TURNED: 1})
        elif node.kind == "PRelu" and own and max(constants[weight].shape) == constants[weight].numel():
            shape = list(constants[weight].shape)
            after = len(shape) - 1 - shape.index(max(shape))
            node = replace(node, attributes=node.attributes | {AFTER: after})
            flat.add(weight)
        found.append(node)
    return found, transposed, flat


def _with_product(reader: Node, product: Node) -> Node:
    """The op that adds the bias, on the product's input and with its weight as a last input."""
    last = WITH_BIAS[reader.kind][1]
    given = [*reader.inputs, *[""] * (last - len(reader.inputs)), product.inputs[1]]
    return replace(reader, inputs=(product.inputs[0], *given[1:]))


def _bias_after(
    node: Node,
    readers: Mapping[str, Node],
    uses: Mapping[str, int],
    constants: Mapping[str, Tensor],
    width: int,
) -> tuple[str, Node | None]:
    """The bias that alone is added to the node's result, and the op that adds it."""
    made, reader = node.outputs[0], readers.get(node.outputs[0])
    if reader is None or uses[made] != 1:
        return "", None
    if reader.kind == "Add":
        bias = next((name for name in reader.inputs if name != made), "")
    else:
        place = WITH_BIAS.get(reader.kind, (0, 0))[0]
        bias = reader.inputs[place] if 0 < place < len(reader.inputs) and reader.inputs[0] == made else ""
    if bias not in constants or tuple(constants[bias].shape) != (width,):
        return "", None
    return bias, reader
