"""A captured model: one flat graph of ATen ops, its tensors and an example of its inputs."""

from __future__ import annotations

import copy
import operator
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from secateur.graph.layouts import Layout
from secateur.graph.structured import is_size

Copied = TypeVar("Copied")


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model.

    Its nodes are `placeholder` (inputs), `get_attr` (tensors), `call_function` (ops) and `output`.
    """

    module: fx.GraphModule
    tensors: dict[str, Tensor]  # parameters, buffers and constants by their names in the model
    # name → every name of the tensor in the model: several for tied weights, none for a constant
    aliases: dict[str, tuple[str, ...]]
    example: tuple[Tensor, ...]  # one tensor for each input, batch of at least 2
    constants: dict[str, Any] = field(default_factory=dict)  # placeholder → value of a non-tensor argument
    layouts: Mapping[str, Layout] = field(default_factory=dict)  # of tensors that are stored in another order
    file_names: tuple[str, ...] = ()  # of the inputs, in the file that the model was read from
    own_form: bool = False  # whether the smaller model is written by its importer, not as this graph
    copies: frozenset[str] = frozenset()  # tensors that are tied to others in the model, and are apart here

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """All nodes in execution order, without the constant arguments, which nothing reads."""
        return tuple(n for n in self.module.graph.nodes if n.name not in self.constants)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the tensors that are parameters; the others are buffers and constants."""
        return tuple(n for n in self.tensors if isinstance(operator.attrgetter(n)(self.module), nn.Parameter))

    @property
    def inputs(self) -> tuple[fx.Node, ...]:
        """The placeholders of tensors, in the order of `example`."""
        return tuple(n for n in self.nodes if n.op == "placeholder")

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the inputs are called by users, in order."""
        named = len(self.file_names) == len(self.inputs)
        return self.file_names if named else tuple(node.name for node in self.inputs)

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """The nodes whose tensors the model returns, in the flattened order of its output; no sizes."""
        (output,) = (n for n in self.nodes if n.op == "output")
        found = (n for n in pytree.tree_leaves(output.args[0]) if isinstance(n, fx.Node))
        return tuple(n for n in found if not is_size(n))

    def uses(self) -> Counter[str]:
        """How many nodes read each tensor, by name."""
        return Counter(str(node.target) for node in self.nodes if node.op == "get_attr" for _ in node.users)

    def stored_shape(self, name: str) -> tuple[int, ...]:
        """The shape in which the model stores a tensor."""
        return self.layouts[name].stored_shape if name in self.layouts else tuple(self.tensors[name].shape)

    def as_stored(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full-size tensors of the graph in the layout in which the model stores them."""
        return {n: self.layouts[n].as_stored(t) if n in self.layouts else t for n, t in tensors.items()}

    def as_read(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full-size tensors of the model in the layout in which the graph reads them."""
        return {n: self.layouts[n].as_read(t) if n in self.layouts else t for n, t in tensors.items()}


def tensor_name(node: object) -> str | None:
    """The name of the tensor that a node reads; None for ops, inputs and other values."""
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None


def resized(graph: Graph, batch: int) -> tuple[Tensor, ...]:
    """The example inputs with `batch` samples, repeated as often as needed."""
    size = graph.example[0].shape[0]
    index = torch.arange(batch) % size
    return tuple(x[index.to(x.device)] if x.ndim and x.shape[0] == size else x for x in graph.example)


def copied(value: Copied) -> Copied:
    """A deep copy of a module or graph, without torch's warning about its own deprecated tree specs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return copy.deepcopy(value)
