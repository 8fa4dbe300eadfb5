"""A Hugging Face folder as a model that can be pruned, and that knows its smaller form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from secateur.errors import InputError
from secateur.formats.huggingface import sizes
from secateur.formats.huggingface.classes import (
    built,
    check_numbers,
    check_sizes,
    class_of,
    config_of,
    quiet,
)
from secateur.formats.huggingface.folder import Folder
from secateur.formats.huggingface.inputs import InputOf, inputs_of, outputs_of
from secateur.formats.huggingface.shards import Written
from secateur.graph.coupling import Coupling
from secateur.graph.export import first_line
from secateur.graph.graph import Graph
from secateur.surgery import Shrinks
from secateur.types import Group


class FromFolder(Shrinks):
    """What `load_folder` gives and `save_folder` writes."""

    own_form = False
    folder: Folder
    cuts_streams = True

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise `InputError` for inputs that the network refuses."""
        try:
            with torch.no_grad():
                self(*inputs)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            shapes = ", ".join(str(tuple(x.shape)) for x in inputs)
            raise InputError(
                f"the model refuses inputs of the shapes {shapes}: {first_line(error)}"
            ) from error

    def role_of(self, group: Group) -> str | None:
        """The keys of `config.json` that say how many units a group has; None where none does."""
        return sizes.role(self.folder, group)

    def kept_numbers(self, group: Group) -> list[int] | None:
        """The numbers of units that these keys can say; None for any."""
        return sizes.kept_numbers(self.folder, group)

    def with_graph(self, module: fx.GraphModule) -> nn.Module:
        """A smaller model whose sizes `config.json` cannot say."""
        return HuggingFaceGraph(module, self.folder, self.example_inputs)


class HuggingFaceModel(FromFolder):
    """A module of transformers that takes and returns plain tensors, computed in float32.

    `network` is that module; its tensors have the same names here as there. Inputs come in the order of
    `inputs`; what is returned, `outputs` names.
    """

    def __init__(
        self, network: Any, folder: Folder, inputs: tuple[InputOf, ...], outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.folder, self.inputs, self.outputs = folder, inputs, outputs
        self._held = (network,)  # as no submodule, so that names need no prefix
        for name, part in network.named_children():
            self.add_module(name, part)
        for name, value in network.named_parameters(recurse=False):
            self.register_parameter(name, value)
        for name, value in network.named_buffers(recurse=False):
            self.register_buffer(name, value)
        self.training = False

    @property
    def network(self) -> Any:
        return self._held[0]

    def forward(self, *inputs: Tensor) -> Any:
        given = {found.name: x for found, x in zip(self.inputs, inputs, strict=True)}
        out = self.network(**given)
        found = [getattr(out, name) for name in self.outputs]
        return found[0] if len(found) == 1 else tuple(found)

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples of ids of tokens, or of zeros."""
        return tuple(found.example() for found in self.inputs)

    @property
    def input_names(self) -> tuple[str, ...]:
        """As transformers calls them."""
        return tuple(known.name for known in self.inputs)

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise `InputError` for another number of inputs, other types, and ids out of the vocabulary."""
        if len(inputs) != len(self.inputs):
            names = ", ".join(found.name for found in self.inputs)
            raise InputError(f"the model takes {len(self.inputs)} inputs ({names}), not {len(inputs)}")
        for known, x in zip(self.inputs, inputs, strict=True):
            known.check(x)
        super().check(inputs)

    def shrunk(
        self, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Mapping[str, Tensor]
    ) -> HuggingFaceModel | None:
        """The class of a smaller configuration, with weights that `from_pretrained` takes; None where the
        configuration cannot say all sizes.
        """
        state = self.network.state_dict()
        before = {name: tuple(value.shape) for name, value in state.items()}
        for name, value in small.items():
            state.update(dict.fromkeys((n for n in graph.aliases[name] if n in before), value))
        after = {name: tuple(value.shape) for name, value in state.items()}
        widths, untied = sizes.widths_left(self.folder, coupling, alive), bool(graph.copies)
        if widths is None:
            return None
        config = sizes.smaller_config(self.folder, before, after, widths, untied)
        return None if config is None else self._with(config, sizes.in_class(self.folder, state, widths))

    def _with(self, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> HuggingFaceModel | None:
        """The class built from `config`; None where transformers refuses that, or has other shapes then."""
        folder = self.folder.with_config(config)
        with quiet() as transformers:
            kind: Any = type(self.network)
            try:
                made = config_of(transformers, folder)
            except InputError:
                return None
            with torch.device("meta"):
                shapes = {name: value.shape for name, value in kind(made).state_dict().items()}
            if shapes != {name: value.shape for name, value in state.items()}:
                return None
            network, _ = built(transformers, folder, kind, made, as_in_files(self.network, state))
        return HuggingFaceModel(network, folder, self.inputs, self.outputs)

    def stored_state(self) -> dict[str, Written]:
        """The tensors by their names in files, with the types of the original's.

        Of tied ones that which was there. A tensor that transformers calls otherwise today has that name.
        """
        named, tensors = as_in_files(self.network, self.network.state_dict()), self.folder.tensors
        usual = next(stored.dtype for stored in tensors.values() if stored.dtype.is_floating_point)
        found, written = dict[str, Written](), set[int]()
        for name in sorted(named, key=lambda name: name not in tensors):
            value = named[name]
            if name not in tensors and value.data_ptr() in written:
                continue
            written.add(value.data_ptr())
            found[name] = Written(value, tensors[name].dtype if name in tensors else usual)
        return found


class HuggingFaceGraph(FromFolder):
    """The graph of a smaller model whose sizes `config.json` cannot say."""

    def __init__(self, module: nn.Module, folder: Folder, examples: Sequence[Tensor]) -> None:
        super().__init__()
        self.folder, self.graph_module, self._examples = folder, module, tuple(examples)
        self.training = False

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Those on which the graph was captured."""
        return self._examples

    def forward(self, *inputs: Tensor) -> Any:
        return self.graph_module(*inputs)

    def shrunk(
        self, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Mapping[str, Tensor]
    ) -> None:
        """None: a graph has no configuration that could say its sizes."""


def as_in_files(network: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names in the files that `from_pretrained` reads for this module."""
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, Tensor] = revert_weight_conversion(network, dict(state))
    return found


def model_of(folder: Folder) -> tuple[HuggingFaceModel, tuple[str, ...]]:
    """The model of a folder with weights, and the names of tensors that its class does not use."""
    with quiet() as transformers:
        kind: Any = class_of(transformers, folder)
        check_numbers(folder)
        config = config_of(transformers, folder)
        check_sizes(folder, kind, config)
        state = {name: _as_computed(stored.read()) for name, stored in folder.tensors.items()}
        network, unused = built(transformers, folder, kind, config, state)
        inputs = inputs_of(network)
        outputs = outputs_of(network, inputs)
    return HuggingFaceModel(network, folder, inputs, outputs), unused


def _as_computed(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
