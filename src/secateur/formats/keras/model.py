"""A Keras file as a module: the layers of its model with their weights, in torch's layout."""

from __future__ import annotations

from typing import Any

from secateur.formats.keras.inputs import check_masks
from secateur.formats.keras.layer import Layer, as_tensor
from secateur.formats.keras.network import MODELS, Network
from secateur.formats.keras.source import Source
from secateur.formats.keras.spec import spec_of
from secateur.formats.keras.value import Value
from secateur.formats.keras.variables import Stored, stored_variables


class KerasGraph(Network):
    """Runs the model of a file. `forward` takes tensors in the order and the layout of the file.

    `source` is the file, `stored` says which of its arrays is which weight.
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

    def forward(self, *inputs: Any, **ignored: Any) -> Any:
        outputs = [value.plain() for value in self.run([Value(x) for x in inputs])]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)
