"""Numbers in an ONNX model that depend on how many units there are: sizes, bounds of slices, groups.

One row in `RULES` for each op that is told any.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.edit import put_constant, set_attribute, set_dims
from secateur.formats.onnx.host import slice_of
from secateur.formats.onnx.model import OnnxGraph, Proto
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import EXPANDED_LIKE, FILLED_LIKE
from secateur.formats.onnx.places import where_values_are
from secateur.formats.onnx.tensors import Number, to_proto
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.surgery.sizes import Alive, alive_units, kept_along, kept_indices, kept_shape

Edits = dict[str, dict[int, int]]  # constant → place in it → its new number


class Sizes:
    """What follows from the units that stay, gathered over the nodes, then put into the model at once."""

    def __init__(self, model: OnnxGraph, graph: Graph, coupling: Coupling, alive: Alive) -> None:
        self.model, self.coupling = model, coupling
        self.table, self.indices = alive_units(coupling, alive), kept_indices(graph, coupling, alive)
        self.places, self.env = where_values_are(model, graph)
        self.edits: Edits = {}
        self.changes: dict[
            tuple[str, int], tuple[Node, dict[int, int]]
        ] = {}  # by first output and input of a node
        self.own: list[
            tuple[Node, int, Tensor]
        ] = []  # nodes that need a constant of their own: which input, what
        self.attributes: list[tuple[Node, str, Any]] = []
        self.wanted: dict[
            tuple[str, int], dict[int, int]
        ] = {}  # (first output, input of a node) → numbers there

    def unit_labels(self, name: str) -> tuple[Tensor, ...]:
        """The unit ids of a value's elements (`Coupling.levels`); empty where nothing is known of it."""
        node = self.places.get(name)
        return () if node is None or node not in self.coupling.units else self.coupling.levels(node)

    def shapes(self, name: str) -> tuple[list[int], list[int]]:
        """Of a value, before and after; the same where nothing is known of it."""
        levels = self.unit_labels(name)
        if not levels:
            return [], []
        return list(levels[0].shape), kept_shape(levels, self.table)

    def kept(self, name: str, axis: int) -> Tensor | None:
        levels = self.unit_labels(name)
        if not levels:
            return None
        keep = kept_along(levels, axis, self.table)
        return None if bool(keep.all()) else keep

    def set_numbers(self, node: Node, position: int, new: Mapping[int, int]) -> None:
        """The numbers that an input of the node is to have at these places."""
        if new:
            self.changes[node.outputs[0], position] = (node, dict(new))

    def resolve(self) -> None:
        """From the numbers that nodes need to numbers of constants.

        Where two nodes need different numbers of one constant, the later one gets a constant of its own.
        """
        for node in self.model.nodes:
            for position in self._left_alone(node):
                for number in self.numbers(node, position):
                    if isinstance(number, Number):
                        self._edit(number, int(number))
        for (_, position), (node, new) in list(self.changes.items()):
            self._resolve_change(node, position, new)

    def _left_alone(self, node: Node) -> list[int]:
        """The inputs of the node whose numbers must stay as they are: read here, and not changed."""
        on_numbers = not any(isinstance(self.env.get(name), Tensor) for name in node.outputs)
        moved = _carried(node) if on_numbers else ()
        return [
            position
            for position, name in enumerate(node.inputs)
            if name and position not in moved and self._is_number(name)
            if (node.outputs[0], position) not in self.changes
        ]

    def _is_number(self, name: str) -> bool:
        return name in self.env or name in self.model.hosts

    def _edit(self, number: Number, value: int) -> None:
        """Make the place that the number comes from hold `value`."""
        constant, index = number.origin
        self.edits.setdefault(constant, {})[index] = value

    def _resolve_change(self, node: Node, position: int, new: Mapping[int, int]) -> None:
        given = self.numbers(node, position)
        wanted = {i: new.get(i, int(v)) for i, v in enumerate(given) if isinstance(v, Number)}
        known = [self.edits.get(given[i].origin[0], {}).get(given[i].origin[1]) for i in wanted]
        if any(k not in (None, w) for k, w in zip(known, wanted.values(), strict=True)):
            self.own.append((node, position, fixed(node, [new.get(i, v) for i, v in enumerate(given)])))
            return
        for i, value in wanted.items():
            self._edit(given[i], value)
        # Sizes that are worked out from others can be compared only when all else is in place.
        self.wanted[node.outputs[0], position] = {i: n for i, n in new.items() if i not in wanted}

    def numbers(self, node: Node, position: int) -> list[Any]:
        name = node.inputs[position]
        value = self.env[name] if name in self.env else self.model.hosts[name]
        return list(value.reshape(-1)) if isinstance(value, np.ndarray) else []

    def apply(self, proto: Proto) -> None:
        by_output = {n.output[0]: n for n in proto.graph.node}
        for name, places in self.edits.items():
            constant = self.model.constants[name].clone()
            flat = constant.reshape(-1)
            for place, value in places.items():
                flat[place] = value
            if not torch.equal(constant, self.model.constants[name]):
                put_constant(proto, name, constant)
        for number, (node, position, constant) in enumerate(self.own):
            name = f"{node.outputs[0]}_sizes_{number}"
            proto.graph.initializer.append(to_proto(constant, name))
            target = by_output[node.outputs[0]]
            while len(target.input) <= position:
                target.input.append("")
            target.input[position] = name
        for node, attribute, value in self.attributes:
            set_attribute(by_output[node.outputs[0]], attribute, value)
        self._declare_shapes(proto)

    def _declare_shapes(self, proto: Proto) -> None:
        """Shapes that the file states; those of values inside of what is one op here are left out."""
        constants = {t.name: list(t.dims) for t in proto.graph.initializer}
        stated = []
        for info in proto.graph.value_info:
            before, after = self.shapes(info.name)
            # A batch stays as it is.
            changed = [None if a == b else a for a, b in zip(after, before, strict=True)]
            set_dims(info, constants.get(info.name, changed))
            if changed or info.name in constants or not _is_floating(info):
                stated.append(info)
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(stated)


def _is_floating(info: Proto) -> bool:
    return info.type.tensor_type.elem_type in (1, 10, 11, 16)


def _carried(node: Node) -> range:
    """The inputs whose numbers an op on numbers only moves about."""
    if node.kind == "Concat":
        return range(len(node.inputs))
    return range(1 if node.kind in _MOVES else 0)


_MOVES = {"Cast", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}


def fixed(node: Node, told: Sequence[Any]) -> Tensor:
    """Sizes as a constant, the one that is free as −1."""
    free = [i for i, size in enumerate(told) if not isinstance(size, int)]
    if len(free) > 1:
        raise UnsupportedOpError(f"{node} has {len(free)} free sizes, and others that change with the units")
    return torch.tensor([-1 if i in free else int(size) for i, size in enumerate(told)], dtype=torch.int64)


# --- one rule for each op that is told sizes ----------------------------------------------------------------


def _resized(sizes: Sizes, node: Node, position: int = 1) -> None:
    """Reshape, Expand, Resize: sizes of axes that shrink."""
    before, after = sizes.shapes(node.outputs[0])
    if not before or "axes" in node.attributes:
        return
    given = sizes.numbers(node, position) if len(node.inputs) > position else []
    lead = len(before) - len(given)
    new = dict[int, int]()
    for i, size in enumerate(given):
        stays = i + lead < 0 or before[i + lead] == after[i + lead]
        if stays and (isinstance(size, Number) or not isinstance(size, int)):
            continue
        if not isinstance(size, int):  # a multiple of the batch: left to follow from the others
            new[i] = -1
        # One that is worked out from shapes may follow units where it must not.
        elif i + lead >= 0 and size == before[i + lead]:
            new[i] = after[i + lead]
    sizes.set_numbers(node, position, new)


def _split(sizes: Sizes, node: Node) -> None:
    axis = node.attribute("axis", 0)
    keep = sizes.kept(node.inputs[0], axis)
    if keep is None:
        return
    parts = [int(sizes.env[name].shape[axis]) for name in node.outputs]
    new = [int(part.sum()) for part in keep.split(parts)]
    if len(node.inputs) > 1:
        sizes.set_numbers(node, 1, dict(enumerate(new)))
    elif "split" in node.attributes or (len(set(new)) > 1 and node.opset < 13):
        sizes.attributes.append((node, "split", new))
    elif len(set(new)) > 1:
        sizes.own.append((node, 1, torch.tensor(new)))
        sizes.attributes.append((node, "num_outputs", None))


def _slice(sizes: Sizes, node: Node) -> None:
    """Starts and ends, counted in what stays."""
    levels = sizes.unit_labels(node.inputs[0])
    if not levels:
        return
    bounds = tuple(
        np.array(sizes.numbers(node, i), dtype=object) if name else None
        for i, name in enumerate(node.inputs)
        if i > 0
    )
    starts, ends, axes, steps = slice_of(node, bounds, levels[0].ndim)
    new_starts, new_ends = dict[int, int](), dict[int, int]()
    for i, axis in enumerate(axes):
        keep = sizes.kept(node.inputs[0], axis)
        if keep is not None and steps[i] > 0:  # an axis that is reversed is so as a whole
            start, end, _ = slice(int(starts[i]), int(ends[i])).indices(len(keep))
            new_starts[i] = int(keep[:start].sum())
            if int(ends[i]) < len(keep):
                new_ends[i] = int(keep[:end].sum())
    if len(node.inputs) > 1:
        sizes.set_numbers(node, 1, new_starts)
        sizes.set_numbers(node, 2, new_ends)
    else:
        for name, old, new in (("starts", starts, new_starts), ("ends", ends, new_ends)):
            sizes.attributes.append((node, name, [new.get(i, int(v)) for i, v in enumerate(old)]))


def _groups(sizes: Sizes, node: Node) -> None:
    """Depthwise convolutions have as many groups as channels."""
    groups = node.attribute("group", 1)
    before, after = sizes.shapes(node.inputs[0])
    if groups > 1 and before != after and before[1] == groups:
        sizes.attributes.append((node, "group", after[1]))


def _norm_groups(sizes: Sizes, node: Node) -> None:
    before, after = sizes.shapes(node.inputs[0])
    if before != after:
        sizes.attributes.append((node, "num_groups", node.attribute("num_groups") * after[1] // before[1]))


RULES: dict[str, Callable[[Sizes, Node], None]] = {
    "ConstantOfShape": partial(_resized, position=0),
    FILLED_LIKE: partial(_resized, position=0),
    EXPANDED_LIKE: _resized,
    "CenterCropPad": _resized,
    "Conv": _groups,
    "ConvTranspose": _groups,
    "Expand": _resized,
    "GroupNormalization": _norm_groups,
    "Reshape": _resized,
    "Resize": partial(_resized, position=3),
    "Slice": _slice,
    "Split": _split,
    "com.microsoft.FusedConv": _groups,
}
