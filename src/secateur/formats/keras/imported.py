"""A Keras file as a model that can be pruned, and that knows its smaller form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.formats.keras.inputs import examples, input_of
from secateur.formats.keras.model import KerasGraph
from secateur.formats.keras.write import shrunk
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.surgery import Shrinks


class KerasModel(KerasGraph, Shrinks):
    """What `load_keras` gives and `save_keras` writes."""

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples of zeros; `InputError` where an axis other than the batch has no size."""
        return examples(self)

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(name for name, *_ in map(input_of, self.input_specs()))

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise `InputError` for inputs of another shape than the file says, or that a layer refuses."""
        specs = [input_of(spec) for spec in self.input_specs()]
        if len(specs) != len(inputs):
            raise InputError(f"the model takes {len(specs)} inputs, not {len(inputs)}")
        for (name, shape, _), x in zip(specs, inputs, strict=True):
            fits = len(shape) == x.ndim and all(
                n is None or n == size for n, size in zip(shape[1:], x.shape[1:], strict=True)
            )
            if not fits:
                raise InputError(f"the input {name!r} has the shape {shape}, not {tuple(x.shape)}")
        with torch.no_grad():
            self(*inputs)

    def shrunk(
        self, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Mapping[str, Tensor]
    ) -> KerasModel:
        """The same file made smaller (see `write`)."""
        smaller = shrunk(self, graph, coupling, small, alive)
        assert isinstance(smaller, KerasModel)
        return smaller
