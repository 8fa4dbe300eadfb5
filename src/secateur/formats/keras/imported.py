"""A Keras file as a model that can be pruned, and that knows its smaller form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.formats.keras.inputs import check_masks, examples, input_of
from secateur.formats.keras.layer import Layer, as_tensor
from secateur.formats.keras.network import MODELS, Network
from secateur.formats.keras.source import Source
from secateur.formats.keras.spec import spec_of
from secateur.formats.keras.value import Value
from secateur.formats.keras.variables import Stored, stored_variables
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.surgery import Shrinks

Array = np.ndarray[Any, Any]


class KerasModel(Network, Shrinks):
    """What `load_keras` gives and `save_keras` writes.

    `forward` takes the inputs in the order of the file, in its layout of axes, with any batch size.
    """

    def __init__(self, source: Source) -> None:
        spec = spec_of(source.config, source.has_keras_2_meaning)
        if spec.kind not in MODELS:
            spec.unsupported(
                "is no Sequential or functional model, and code of the file is never run. Build it again "
                "from layers with keras.Model(inputs, outputs), and save that"
            )
        super().__init__(spec)
        check_masks(self)
        self.source = source
        self.stored = stored_variables(self, source)
        self._take_weights()
        self.eval()

    def _take_weights(self) -> None:
        """Move the arrays of the file into the layers."""
        source, owners = self.source, dict[int, list[Stored]]()
        for one in self.stored:
            owners.setdefault(id(one.layer), []).append(one)
        for group in owners.values():
            taken = {}
            for one in group:
                brain = source.datasets[one.path].get("dtype") == "bfloat16"
                taken[one.variable.name] = as_tensor(source.arrays.pop(one.path), brain)
            group[0].layer.hold(taken)
        for layer in self.modules():
            if isinstance(layer, Layer) and not layer.variables():
                layer.hold({})

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples of zeros; `InputError` where an axis other than the batch has no size."""
        return examples(self)

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

    def forward(self, *inputs: Any, **ignored: Any) -> Any:
        outputs = [value.plain() for value in self.run([Value(x) for x in inputs])]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def shrunk(
        self, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Mapping[str, Tensor]
    ) -> KerasModel:
        """The same file made smaller (see `write`)."""
        from secateur.formats.keras.write import shrunk

        return shrunk(self, graph, coupling, small, alive)
