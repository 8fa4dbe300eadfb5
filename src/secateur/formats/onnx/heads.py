"""How many heads an op is told it has, where heads have left: one row in `RULES` for each such op."""

from __future__ import annotations

from collections.abc import Callable

import torch

from secateur.formats.onnx.microsoft import DOMAIN, TURNED, hidden_sizes
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.sizes import Sizes


def _attention(sizes: Sizes, node: Node) -> None:
    """From the columns of the weight that stay; those of queries and keys leave by whole heads."""
    path, axis = sizes.model.paths.get(node.inputs[1], ""), 0 if node.attribute(TURNED, 0) else 1
    if (path, axis) not in sizes.indices:
        return
    width = sizes.model.constants[node.inputs[1]].shape[1]
    keep = torch.zeros(width, dtype=torch.bool)
    keep[sizes.indices[path, axis]] = True
    old = hidden_sizes(node, width)
    new = [int(part.sum()) for part in keep.split(old)]
    sizes.attributes.append((node, "num_heads", node.attribute("num_heads") * new[0] // old[0]))
    if "qkv_hidden_sizes" in node.attributes or len(set(new)) > 1:
        sizes.attributes.append((node, "qkv_hidden_sizes", new))


def _in_proportion(sizes: Sizes, node: Node) -> None:
    """From the width of the first input."""
    before, after = sizes.shapes(node.inputs[0])
    if before != after and node.attribute("num_heads", 0):
        sizes.attributes.append((node, "num_heads", node.attribute("num_heads") * after[-1] // before[-1]))


RULES: dict[str, Callable[[Sizes, Node], None]] = {
    "RotaryEmbedding": _in_proportion,
    f"{DOMAIN}.Attention": _attention,
    f"{DOMAIN}.MultiHeadAttention": _in_proportion,
    f"{DOMAIN}.RotaryEmbedding": _in_proportion,
}
