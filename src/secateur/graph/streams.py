"""Find the streams of a network: widths that may be turned by any rotation, and then cut.

Between the layers that write a stream and those that read it, values are only moved, added and normed, so
that a rotation of the writers' rows and the readers' columns changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from secateur.errors import InputError, NothingToPruneError
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph, tensor_name
from secateur.graph.imported import Imported
from secateur.graph.labels import compressed
from secateur.graph.node import bound_arguments, kind
from secateur.graph.norms import NORMS, for_streams
from secateur.graph.ops import MOVES, of
from secateur.graph.sources import described
from secateur.graph.stream import Stream, StreamNorm
from secateur.types import Group

_MOVED = {*of(*MOVES, "dropout"), "getitem"}
_ADDED = {"add", "sub"}
_SUMMED = {"mean", "sum"}  # along other axes: the rules let no other through
_LAYERS = of("linear", "convolution", "product", "embedding")
_STREAM = "the stream itself"


def coupled(
    model: nn.Module | ExportedProgram, example_inputs: ExampleInputs | None, streams: bool
) -> tuple[Graph, Coupling]:
    """A model's graph and its groups, with streams among them where asked for."""
    graph = capture(model, example_inputs)
    if not streams:
        return graph, couple(graph)
    if isinstance(model, Imported) and not model.cuts_streams:
        raise InputError(
            f"streams: a {type(model).__name__} is written in the form of its file, in which streams stay; "
            "give the PyTorch module, a .pt2 file or a Hugging Face folder"
        )
    graph = for_streams(graph)
    return graph, couple_streams(graph)


def couple_streams(graph: Graph) -> Coupling:
    """The groups of a graph of `norms.for_streams`, streams among them.

    Raises `NothingToPruneError` where no stream can be cut; it names the node that stands in the way of each.
    """
    norms = {node.name: node for node in graph.nodes if node.op == "call_function" and kind(node) in NORMS}
    refused = dict[str, str]()
    while True:
        coupling = couple(graph, frozenset(norms.keys() - refused.keys()))
        found, wrong = _streams(graph, coupling, {n: norms[n] for n in norms.keys() - refused.keys()})
        if not wrong:
            break
        refused |= wrong
    if not found:
        told = "; ".join(dict.fromkeys(refused.values())) or (
            "the model has no layer norm or RMS norm whose weight is a factor as it stands (1 + weight, as "
            "in Gemma, is not followed)"
        )
        raise NothingToPruneError(
            f"streams: no stream of this model can be cut: {told}. Prune without streams, or give a model "
            "whose blocks read the stream through norms and add to it"
        )
    return replace(coupling, streams=tuple(found))


def _streams(
    graph: Graph, coupling: Coupling, norms: Mapping[str, fx.Node]
) -> tuple[list[Stream], dict[str, str]]:
    """The streams of these norms, and for norms of others why they are none."""
    found, wrong, missing = list[Stream](), dict[str, str](), dict(norms)
    for group in coupling.groups:
        own = {
            name: node
            for name, node in norms.items()
            if _weight(node) in {slot.tensor for slot in group.slots}
        }
        for name in own:
            missing.pop(name, None)
        if not own:
            continue
        why = group.pinned and f"{group.name} stays whole ({group.pinned})"
        stream = None if why else _Walk(graph, coupling, group, own).stream()
        if isinstance(stream, Stream):
            found.append(stream)
        else:
            wrong |= dict.fromkeys(own, why or str(stream))
    stays = {
        name: f"{described(node)} normalises a value that cannot shrink" for name, node in missing.items()
    }
    return found, wrong | stays


def _weight(node: fx.Node) -> str | None:
    return tensor_name(bound_arguments(node, node.args, node.kwargs)["weight"])


class _Walk:
    """Follows the units of one group through the graph."""

    def __init__(self, graph: Graph, coupling: Coupling, group: Group, norms: Mapping[str, fx.Node]) -> None:
        self.graph, self.coupling, self.group, self.norms = graph, coupling, group, norms
        self.ids = coupling.ids[group.name]
        self.place = dict[fx.Node, str]()  # node with the units → the norm behind which it is, or the stream
        self.readers: dict[str, set[tuple[str, int]]] = {name: set() for name in (*norms, _STREAM)}

    def stream(self) -> Stream | str:
        """The stream, or why the group is none."""
        for node in self.graph.nodes:
            if node.op == "call_function" and (why := self._step(node)):
                return f"{why} at {described(node)}"
        read = [place for places in self.readers.values() for place in places]
        if len(set(read)) < len(read):
            return f"{self.group.name} is read by one weight through several norms"
        norms = tuple(self._norm(node) for node in self.norms.values())
        if len({norm.centred for norm in norms}) > 1:
            return f"{self.group.name} goes through layer norms and RMS norms"
        for slot in self.group.having("consumer"):
            if (slot.tensor, slot.axis) not in read:
                return f"{self.group.name} is read by {slot.tensor} in a way that has no rule"
        return Stream(self.group.name, norms)

    def _step(self, node: fx.Node) -> str:
        """Take one op; why it stands in the way, or ""."""
        self._note_readers(node)
        if not self._carries(node):
            return ""
        given = {self.place[n] for n in node.all_input_nodes if n in self.place}
        if node.name in self.norms:
            self.place[node] = node.name
            return "" if given == {_STREAM} else "a norm of what another norm gives"
        if kind(node) in _LAYERS and not given:
            self.place[node] = _STREAM
            return ""
        if not self._is_linear(node):
            return "the stream is neither moved, added nor normed"
        if len(given) > 1 or (given and given != {_STREAM} and self._adds_elements(node)):
            return "what a norm gives is added to the stream (a norm behind the sum)"
        self.place[node] = given.pop() if given else _STREAM
        return ""

    def _is_linear(self, node: fx.Node) -> bool:
        name, several = kind(node), len(node.all_input_nodes) > 1
        scaled = name in ("mul", "div") and not several
        return name in _MOVED or name in _SUMMED or (name in _ADDED and several) or scaled

    def _adds_elements(self, node: fx.Node) -> bool:
        return kind(node) in _ADDED and len(node.all_input_nodes) > 1

    def _note_readers(self, node: fx.Node) -> None:
        """The weights that read the group at this node, by the norm that it is read through."""
        names = {tensor_name(n) for n in node.all_input_nodes}
        for slot in self.group.having("consumer") if kind(node) in _LAYERS else ():
            if slot.tensor in names:
                for source in node.all_input_nodes:
                    if source in self.place:
                        self.readers[self.place[source]].add((slot.tensor, slot.axis))

    def _carries(self, node: fx.Node) -> bool:
        units = self.coupling.units.get(node)
        return units is not None and bool(torch.isin(compressed(units), self.ids).any())

    def _norm(self, node: fx.Node) -> StreamNorm:
        a = bound_arguments(node, node.args, node.kwargs)
        weight = tensor_name(a["weight"])
        assert weight is not None, "a norm without a weight has no slot in the group"
        bias = tensor_name(a.get("bias"))
        readers = frozenset(self.readers[node.name])
        return StreamNorm(node, a["input"], kind(node) == "layer_norm", a["eps"], weight, bias, readers)
