"""What a captured model does with tokens: which input takes them, and what it tells of every one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.node import kind
from secateur.graph.ops import ONE_TO_ONE

Kind = Literal["causal", "masked", "other"]

_KEEPS_IDS = {*ONE_TO_ONE, "slice"}  # ops through which ids are followed to an embedding
_PROBES = 2  # sequences by which it is tested what a token changes
_ROUNDING = 1e-4  # of the largest output


@dataclass(frozen=True)
class Text:
    """The input that takes sequences of tokens.

    Attributes:
        index: number of the input.
        vocabulary: how many ids the model knows.
        length: tokens of a sequence.
        kind: `causal` where the model scores the next token at each position and no later token changes an
            earlier output; `masked` where it scores all tokens of the vocabulary at each position, and each
            may depend on all; else `other`.
        scores: number of the output with the scores (n, length, vocabulary); −1 for `other`.
    """

    index: int
    vocabulary: int
    length: int
    kind: Kind
    scores: int


def vocabulary(graph: Graph, node: fx.Node) -> int:
    """Rows of the smallest embedding table that is read by the ids in `node`; 0 where there is none."""
    return min((len(graph.tensors[name]) for name in tables(graph, node)), default=0)


def tables(graph: Graph, node: fx.Node) -> list[str]:
    """Names of the embedding tables that are read by the ids in `node`."""
    found, frontier, seen = list[str](), [node], {node}
    while frontier:
        for user in frontier.pop().users:
            if kind(user) == "embedding" and isinstance(user.args[0], fx.Node) and user.args[1] in seen:
                found.append(str(user.args[0].target))
            elif kind(user) in _KEEPS_IDS and user.all_input_nodes[0] in seen and user not in seen:
                seen.add(user)
                frontier.append(user)
    return found


def text_of(graph: Graph) -> Text | None:
    """The input of sequences of ids with the largest vocabulary; None where there is none.

    Cost: two forward passes of two samples where the model scores tokens.
    """
    sizes = {
        i: vocabulary(graph, node)
        for i, (node, x) in enumerate(zip(graph.inputs, graph.example, strict=True))
        if x.ndim == 2 and x.shape[1] > 1 and not x.is_floating_point() and x.dtype != torch.bool
    }
    index = max(sizes, key=lambda i: sizes[i], default=None)
    if index is None or sizes[index] < 2:
        return None
    found, length = sizes[index], graph.example[index].shape[1]
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(found, (_PROBES, length), generator=generator).to(graph.example[index].dtype)
    first = _outputs(graph, index, ids)
    scores = next((i for i, y in enumerate(first) if y.shape == (_PROBES, length, found)), -1)
    if scores < 0 or not first[scores].is_floating_point():
        return Text(index, found, length, "other", -1)
    half = length // 2
    changed = ids.clone()
    changed[:, half:] = (ids[:, half:] + 1) % found
    before, after = first[scores][:, :half], _outputs(graph, index, changed)[scores][:, :half]
    moved = float((after - before).abs().max()) if half else 0.0
    causal = moved <= _ROUNDING * float(before.abs().max())
    return Text(index, found, length, "causal" if causal else "masked", scores)


def _outputs(graph: Graph, index: int, ids: Tensor) -> tuple[Tensor, ...]:
    others = (x[:1].expand(_PROBES, *x.shape[1:]) for x in graph.example)
    return run(graph, [ids if i == index else x for i, x in enumerate(others)])
