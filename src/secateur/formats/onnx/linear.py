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
    """Products with a weight, and the bias that is added to them, as torch's linear layers; slopes as rows.

    Their graphs are then those of the same network from torch, and so are the choices that are made on them.
    Gives the nodes, the weights that are kept as (outputs, inputs), and the slopes.
    """
    turned = _Turned(nodes, constants, outputs)
    for node in nodes:
        turned.add(node)
    return turned.nodes, turned.transposed, turned.flat


class _Turned:
    """The nodes so far, in torch's form."""

    def __init__(
        self, nodes: Sequence[Node], constants: Mapping[str, Tensor], outputs: Sequence[str]
    ) -> None:
        self.constants = constants
        self.uses = Counter(name for n in nodes for name in n.inputs) + Counter(outputs)
        self.readers = {name: n for n in nodes for name in n.inputs}
        self.changed = dict[int, Node | None]()  # nodes that a product before them has taken in
        self.nodes, self.transposed, self.flat = list[Node](), set[str](), set[str]()

    def add(self, original: Node) -> None:
        node = self.changed.get(id(original), original)
        if node is None:
            return
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        value = self.constants.get(weight) if self.uses[weight] == 1 else None
        if value is None:
            self.nodes.append(node)
        elif node.kind == "MatMul" and value.ndim == 2:
            self._add_product(node, weight)
        elif node.kind in _PRODUCTS and value.ndim == 2:
            if not node.attribute("transB", 0):
                self.transposed.add(weight)
            self.nodes.append(replace(node, attributes=node.attributes | {"transB": 1, TURNED: 1}))
        elif node.kind == "PRelu" and max(value.shape) == value.numel():
            self.flat.add(weight)
            after = value.ndim - 1 - list(value.shape).index(max(value.shape))
            self.nodes.append(replace(node, attributes=node.attributes | {AFTER: after}))
        else:
            self.nodes.append(node)

    def _add_product(self, node: Node, weight: str) -> None:
        self.transposed.add(weight)
        width = self.constants[weight].shape[1]
        bias, reader = _bias_after(node, self.readers, self.uses, self.constants, width)
        if reader is not None and reader.kind != "Add":
            self.changed[id(reader)] = _with_product(reader, node)
            return
        if reader is not None:
            self.changed[id(reader)] = None
        given = (node.inputs[0], weight, *([bias] if bias else []))
        self.nodes.append(replace(node, kind=LINEAR, inputs=given, outputs=(reader or node).outputs))


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
