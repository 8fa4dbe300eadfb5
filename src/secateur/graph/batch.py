"""A free batch axis: the graph is run with another batch size, and what fixes the batch is freed or named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from secateur.errors import CaptureError, few
from secateur.graph.export import first_line
from secateur.graph.graph import Graph, resized
from secateur.graph.interpret import run
from secateur.graph.node import kind
from secateur.graph.sources import described

_VIEWS = {"reshape", "expand"}  # ops that may carry the example's batch size as a constant

Values = dict[fx.Node, Any]  # the value of every op of one pass


def with_free_batch(graph: Graph) -> Graph:
    """Check that the graph runs with another batch size, after freeing sizes that an export has baked in."""
    size = graph.example[0].shape[0]
    try:
        found = run(graph, graph.example)
    except (RuntimeError, IndexError, ValueError, TypeError) as error:
        raise CaptureError(
            f"the captured graph does not run on the example inputs: {first_line(error)}. Export the model "
            "again"
        ) from error
    if not _runs_with_batch(graph, size + 1, found):
        _free_baked_batch(graph, size)
        if not _runs_with_batch(graph, size + 1, found):
            raise CaptureError(
                f"the model fixes its batch size at {size}; make axis 0 dynamic where it is exported, "
                f"or use x.shape[0] in place of a constant in reshape and view. {_fixed_by(graph, size)}"
            )
    return graph


def _fixed_by(graph: Graph, size: int) -> str:
    """A sentence that names the first op that fails with one more sample, or gives no more values."""
    before, after = Values(), Values()
    run(graph, graph.example, observe=lambda node, args, value: before.update({node: value}))
    reason = ""
    try:
        run(graph, resized(graph, size + 1), observe=lambda node, args, value: after.update({node: value}))
    except (RuntimeError, IndexError, ValueError) as error:
        reason = f" ({first_line(error)})"
    for node, value in before.items():
        if node not in after:
            read = [n for n in node.all_input_nodes if _is_stuck(graph, n, size, before, after)]
            what = f", which reads {few([described(n) for n in read])}" if read else ""
            return f"It is fixed by {described(node)}{what}: this does not run on {size + 1} samples{reason}"
        if isinstance(value, Tensor) and not _begins_with(after[node], value):
            return f"It is fixed by {described(node)}, which does not give {size + 1} samples as many values"
    return ""


def _is_stuck(
    graph: Graph, node: fx.Node, size: int, before: Mapping[fx.Node, Any], after: Mapping[fx.Node, Any]
) -> bool:
    """Whether a tensor has the example's batch size, and keeps it with another batch."""
    if node.op == "get_attr":
        return size in graph.tensors[str(node.target)].shape
    value, other = before.get(node), after.get(node)
    if not isinstance(value, Tensor) or not isinstance(other, Tensor):
        return False
    return value.shape == other.shape and size in value.shape


def _runs_with_batch(graph: Graph, batch: int, small: Sequence[Tensor]) -> bool:
    """Whether more samples give outputs with more samples than `small`, those of the example."""
    try:
        large = run(graph, resized(graph, batch))
    except (RuntimeError, IndexError, ValueError):
        return False
    return all(map(_begins_with, large, small))


def _begins_with(large: Tensor, small: Tensor) -> bool:
    """Whether `large` is `small` with more samples: along axis 0, or along one whose beginning is the same.

    An output of the same shape has no batch axis at all.
    """
    grown = [i for i, (a, b) in enumerate(zip(small.shape, large.shape, strict=False)) if a != b]
    if large.ndim != small.ndim or len(grown) > 1:
        return False
    if not grown or (grown[0] == 0 and len(large) > len(small)):
        return True
    first = large.narrow(grown[0], 0, min(small.shape[grown[0]], large.shape[grown[0]]))
    return first.shape == small.shape and torch.allclose(first.double(), small.double(), rtol=1e-2, atol=1e-3)


def _free_baked_batch(graph: Graph, size: int) -> None:
    """In `reshape` and `expand`, let a leading size equal to the example's batch follow the input instead."""
    module = graph.module
    for node in list(module.graph.nodes):
        if kind(node) not in _VIEWS or node.op != "call_function":
            continue
        sizes = list(node.args[1])
        if sizes and sizes[0] == size:
            with module.graph.inserting_before(node):
                batch = module.graph.call_function(torch.ops.aten.sym_size.int, (graph.inputs[0], 0))
            node.args = (node.args[0], [batch, *sizes[1:]], *node.args[2:])
    module.recompile()
