"""Where the values of an ONNX model are in the graph that was captured of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from secateur.errors import VerificationError
from secateur.formats.onnx.model import OnnxGraph, as_output
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.imported import Imported
from secateur.graph.layouts import read_as_used
from secateur.graph.node import kind


class _Seen:
    """What the last run saw; export puts back attributes that a module sets, but not what is in them."""

    def __init__(self) -> None:
        self.env: dict[str, Any] = {}
        self.names: list[str] = []


class _Everything(Imported):
    """The same model, with every value as an output."""

    def __init__(self, model: OnnxGraph) -> None:
        super().__init__()
        self.model, self.seen = model, _Seen()

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        return self.model.example_inputs

    def check(self, inputs: Sequence[Tensor]) -> None:
        """The model itself was checked."""

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        env = self.seen.env = self.model.values(inputs, everything=True)
        self.seen.names = [name for name, value in env.items() if isinstance(value, Tensor)]
        outputs = [as_output(name, env[name]) for name in self.model.outputs]
        return [*outputs, *(env[name] for name in self.seen.names)]


def where_values_are(model: OnnxGraph, graph: Graph) -> tuple[dict[str, fx.Node], dict[str, Any]]:
    """Value → its node in `graph`, and the values that tracing saw (with the numbers among them)."""
    watched = _Everything(model).eval()
    other = capture(watched, graph.example)
    own = len(model.outputs)
    outputs = list(other.outputs)
    found = dict(zip(watched.seen.names, outputs[own:], strict=True))
    (result,) = (n for n in other.module.graph.nodes if n.op == "output")
    result.args = (outputs[:own],)
    other.module.graph.eliminate_dead_code()
    read_as_used(other.module, other.tensors, reshaped=False)
    ours, theirs = _ops(graph.module.graph), _ops(other.module.graph)
    if [kind(n) for n in ours] != [kind(n) for n in theirs]:
        raise VerificationError(
            "two captures of the ONNX model differ. This is a fault in secateur; please report it"
        )
    twin = dict(zip(theirs, ours, strict=True))
    return {name: twin[node] for name, node in found.items() if node in twin}, watched.seen.env


def _ops(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if n.op in ("placeholder", "call_function")]
