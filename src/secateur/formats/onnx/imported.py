"""An ONNX file as a model that can be pruned, and that knows its smaller form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx

from secateur.formats.onnx.check import check_import, check_written
from secateur.formats.onnx.model import OnnxGraph
from secateur.formats.onnx.places import watched
from secateur.formats.onnx.write import shrunk
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.surgery import Shrinks


class OnnxModel(OnnxGraph, Shrinks):
    """What `load_onnx` gives and `save_onnx` writes. `proto` is the file."""

    def __init__(self, proto: Any) -> None:
        super().__init__(proto)
        self.checked = False
        self.quantized: Any = None  # the file's own model, where this is the float form of a quantised one

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.inputs)

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Once: that torch and onnxruntime agree on the model. Raises `VerificationError` (see `check`)."""
        if not self.checked:
            check_import(self, inputs)
            self.checked = True

    def traced(self, export: Callable[[], fx.GraphModule]) -> fx.GraphModule:
        """With the places of all values noted, which `shrunk` needs."""
        return watched(self, export)

    def shrunk(
        self, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Mapping[str, Tensor]
    ) -> OnnxModel:
        """The same file made smaller, valid and the same in onnxruntime (see `write`)."""
        smaller = shrunk(self, graph, coupling, small, alive)
        assert isinstance(smaller, OnnxModel)
        check_written(self.proto, smaller.proto)
        smaller.check(graph.example)
        return smaller
