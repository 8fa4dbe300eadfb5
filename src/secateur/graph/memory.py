"""Which nodes of a graph with in-place ops share memory, found by running it once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree


@dataclass(eq=False)
class Memory:
    """For the nodes whose value is a view: of what, and how the view lies in it."""

    parents: dict[fx.Node, fx.Node] = field(default_factory=dict)  # view → the argument that it is a view of
    same: set[fx.Node] = field(default_factory=set)  # views with the shape and layout of their parent
    shapes: dict[fx.Node, torch.Size] = field(default_factory=dict)
    dtypes: dict[fx.Node, torch.dtype] = field(default_factory=dict)
    lengths: dict[fx.Node, int] = field(default_factory=dict)  # of values that are lists

    def base(self, node: fx.Node) -> fx.Node:
        """The node that the memory behind `node` was made by."""
        while node in self.parents:
            node = self.parents[node]
        return node


def observed(module: fx.GraphModule, inputs: Sequence[Any]) -> Memory:
    """Run the graph on copies of the flat `inputs`; buffers keep their values. Cost: one forward pass."""
    run = _Run(module)
    with torch.no_grad():
        run.run(*(x.clone() if isinstance(x, Tensor) else x for x in inputs), enable_io_processing=False)
    return run.memory


class _Run(fx.Interpreter):
    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.memory = Memory()

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return value.clone() if isinstance(value, Tensor) and not isinstance(value, nn.Parameter) else value

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        self._note_sizes(node, value)
        if node.op == "call_function":
            for source in node.all_input_nodes:
                if _overlap(value, self.env[source]):
                    self._note_view(node, value, source)
                    break
        return value

    def _note_sizes(self, node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor):
            self.memory.shapes[node], self.memory.dtypes[node] = value.shape, value.dtype
        elif isinstance(value, list | tuple):
            self.memory.lengths[node] = len(value)

    def _note_view(self, node: fx.Node, value: Any, source: fx.Node) -> None:
        parent = self.env[source]
        if isinstance(parent, list | tuple) and source not in self.memory.parents:
            return  # one of several new tensors
        self.memory.parents[node] = source
        if isinstance(value, Tensor) and isinstance(parent, Tensor) and _layout(value) == _layout(parent):
            self.memory.same.add(node)


def _overlap(value: Any, other: Any) -> bool:
    mine, theirs = ({x.untyped_storage().data_ptr() for x in _tensors(v)} - {0} for v in (value, other))
    return not mine.isdisjoint(theirs)


def _tensors(value: Any) -> list[Tensor]:
    return [x for x in pytree.tree_leaves(value) if isinstance(x, Tensor)]


def _layout(x: Tensor) -> tuple[Any, ...]:
    return x.shape, x.stride(), x.storage_offset(), x.dtype
