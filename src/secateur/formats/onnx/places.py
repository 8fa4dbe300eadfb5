"""Where the values of an ONNX model are in the graph that was captured of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import fx
from torch.utils import _pytree as pytree

from secateur.errors import VerificationError
from secateur.formats.onnx.model import OnnxGraph, Seen
from secateur.graph.capture import graph_of
from secateur.graph.graph import Graph, copied
from secateur.graph.layouts import read_as_used
from secateur.graph.node import kind
from secateur.torch_state import ALONE, EXPORTING


@dataclass(frozen=True, eq=False)
class _Watched:
    """An export that returns every value after the model's own outputs, and what tracing saw."""

    module: fx.GraphModule
    seen: Seen


@dataclass(frozen=True, eq=False)
class _Places:
    """What follows from it, without a reference to the graph itself, so that this may go."""

    positions: dict[str, int]  # value → number of the op or input
    env: dict[str, Any]


# By the module of a graph, which is captured anew in every run: nothing here outlives a change of the model.
_known: WeakKeyDictionary[fx.GraphModule, _Watched | _Places] = WeakKeyDictionary()


def watched(model: OnnxGraph, export: Callable[[], fx.GraphModule]) -> fx.GraphModule:
    """What `export` gives for the model, from one export that returns all values, which is kept beside it."""
    with ALONE, EXPORTING, model.watched() as seen:
        everything = export()
    own = fx.GraphModule(everything, copied(everything.graph))
    _known[own] = _Watched(everything, seen)
    _end_with(own.graph, len(model.outputs))
    for node in reversed(own.graph.nodes):
        if node.op == "call_function" and not node.users and not node.is_impure():
            own.graph.erase_node(node)
    own.recompile()
    return own


def _end_with(graph: fx.Graph, count: int) -> None:
    """Keep the first `count` outputs: the model's own, as its `forward` returns them."""
    (result,) = (n for n in graph.nodes if n.op == "output")
    result.args = (list(pytree.tree_leaves(result.args[0])[:count]),)
    spec = pytree.tree_structure(0 if count == 1 else tuple(range(count)))
    graph._codegen.pytree_info = graph._codegen.pytree_info._replace(out_spec=spec)  # type: ignore[attr-defined]


def where_values_are(model: OnnxGraph, graph: Graph) -> tuple[dict[str, fx.Node], dict[str, Any]]:
    """Value → its node in `graph`, and the values that tracing saw (with the numbers among them).

    `graph` is a capture of `model`.
    """
    found = _known[graph.module]
    if isinstance(found, _Watched):
        found = _known[graph.module] = _places(model, graph, found)
    ops = _ops(graph.module.graph)
    return {name: ops[position] for name, position in found.positions.items()}, found.env


def _places(model: OnnxGraph, graph: Graph, found: _Watched) -> _Places:
    other = graph_of(model, found.module, list(graph.example))
    own = len(model.outputs)
    nodes = dict(zip(found.seen.names, other.outputs[own:], strict=True))
    _end_with(other.module.graph, own)
    other.module.graph.eliminate_dead_code()
    read_as_used(other.module, other.tensors, reshaped=False)
    ours, theirs = _ops(graph.module.graph), _ops(other.module.graph)
    if [kind(n) for n in ours] != [kind(n) for n in theirs]:
        raise VerificationError(
            "the values of the ONNX model are not found in its graph. This is a fault in secateur; please "
            "report it"
        )
    position = {node: i for i, node in enumerate(theirs)}
    positions = {name: position[node] for name, node in nodes.items() if node in position}
    return _Places(positions, found.seen.env)


def _ops(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if n.op in ("placeholder", "call_function")]
