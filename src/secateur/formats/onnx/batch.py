"""Models whose file fixes the batch size, run with any other.

The model is run once with the file's batch, and the shapes of its values are kept. With another batch, a
value that depends on the inputs has its batch along the axis whose size differs. Sizes that the file writes
out (of Reshape, Expand) then follow the batch, and values that are the same for all samples (class tokens,
positions) are repeated where an op needs one for each sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

from torch import Tensor

from secateur.formats.onnx.host import host
from secateur.formats.onnx.node import Node, axes_of
from secateur.formats.onnx.ops import tensor

_JOINS = frozenset(  # ops whose operands meet along the batch
    "Add And Concat Div Equal Greater GreaterOrEqual Less LessOrEqual MatMul Max Mean Min Mod Mul Or Pow Sub "
    "Sum Where".split()
)


class Batch:
    """How to run a model with another batch size than its file has.

    `size` is the file's, `shapes` are those of its values, `alike` are constants that are the same along axis
    0.
    """

    def __init__(
        self, size: int, shapes: Mapping[str, tuple[int, ...]], alike: frozenset[str], inputs: Iterable[str]
    ) -> None:
        self.size, self.shapes, self.alike = size, shapes, alike
        self.batched = set(inputs)  # values that depend on inputs, or on their shapes
        self.outer = dict[str, int]()  # value → how often the batch repeats along its axis (default: once)

    def axis(self, name: str, value: Any) -> int | None:
        """Where the value has its batch; None where it has none."""
        if name not in self.batched or name not in self.shapes or not isinstance(value, Tensor):
            return None
        pairs = enumerate(zip(value.shape, self.shapes[name], strict=True))
        found = [i for i, (now, then) in pairs if type(now) is not int or now != then]
        return found[0] if len(found) == 1 else None

    def adjusted(self, node: Node, given: Sequence[Any]) -> tuple[Node, list[Any]]:
        """The node and its arguments for the batch at hand."""
        axes = [self.axis(name, value) for name, value in zip(node.inputs, given, strict=True)]
        found = list(given)
        self._pass_on(node, axes)
        first = axes[0] if axes else None
        if first is not None and _reshapes(node, given, first, self.shapes[node.inputs[0]][first]):
            return replace(node, kind="Reshape", attributes={}), [
                given[0],
                self._reshaped(node, given[0], first),
            ]
        if node.kind == "Expand" and isinstance(given[0], Tensor):
            found[1] = self._expanded(given, first)
        elif node.kind in _JOINS:
            found = self._joined(node, found, axes)
        elif node.kind == "Gather" and node.inputs[1] in self.alike:
            found[1] = found[1][:1]
        return node, found

    def _pass_on(self, node: Node, axes: Sequence[int | None]) -> None:
        """The order along the axis of the batch stays, except by Reshape."""
        if not self.batched.isdisjoint(node.inputs):
            self.batched.update(node.outputs)
        batched = [name for name, axis in zip(node.inputs, axes, strict=True) if axis is not None]
        of = [self.outer.get(name, 1) for name in batched]
        self.outer.update(dict.fromkeys(node.outputs, of[0] if of else 1))

    def _reshaped(self, node: Node, x: Tensor, axis: int) -> Any:
        """The file's sizes, but for the axis that takes the batch.

        In the order of memory the batch repeats `before` times. An axis of its size takes it, or else the
        first that can hold it whole.
        """
        old, new = self.shapes[node.inputs[0]], self.shapes[node.outputs[0]]
        before = prod(old[:axis]) * self.outer.get(node.inputs[0], 1)
        leads = [prod(new[:place]) for place in range(len(new))]
        held = [p for p, n in enumerate(leads) if before % n == 0 and new[p] % (before // n * self.size) == 0]
        alone = [p for p in held if leads[p] == before and new[p] == self.size]
        if not held:
            return host(list(new))
        place = (alone or held)[0]
        self.outer[node.outputs[0]] = before // leads[place]
        now = x.shape[axis] if new[place] == old[axis] else -1
        return host([*new[:place], now, *new[place + 1 :]])

    def _expanded(self, given: Sequence[Any], axis: int | None) -> Any:
        """The axis of the batch keeps its size; what is the same for all samples stays one."""
        x, sizes = given[0], list(given[1].reshape(-1))
        lead = len(sizes) - x.ndim
        if axis is not None and axis + lead >= 0:
            sizes[axis + lead] = x.shape[axis]
        elif axis is None and self.size > 1 and sizes[:1] == [self.size] and (lead > 0 or x.shape[0] == 1):
            sizes[0] = 1
        return host(sizes)

    def _joined(self, node: Node, given: list[Any], axes: Sequence[int | None]) -> list[Any]:
        """One of what the file repeats for each sample, or in Concat as many as there are samples."""
        batched = next((i for i, axis in enumerate(axes) if axis is not None), None)
        if batched is None:
            return given
        rank, place = given[batched].ndim, axes[batched]
        assert place is not None
        for i, (name, value) in enumerate(zip(node.inputs, given, strict=True)):
            if axes[i] is not None or value is None or value.ndim != rank:
                continue
            if place == 0 and name in self.alike:
                value = value[:1]
            if node.kind == "Concat" and node.attribute("axis", 1) % rank != place:
                value = _repeated(tensor(value, given[batched]), place, given[batched].shape[place])
            given[i] = value
        return given


def _reshapes(node: Node, given: Sequence[Any], axis: int, size: int) -> bool:
    """Whether the batch, of `size` in the file, may move to another axis or be squeezed out."""
    if node.kind == "Flatten":
        return (axis, node.attribute("axis", 1)) != (0, 1)
    if node.kind == "Squeeze":
        wanted = axes_of(node, given[1] if len(given) > 1 else None)
        return wanted is None or axis in [a % given[0].ndim for a in wanted]
    if node.kind == "Unsqueeze":  # before the batch, from where it had been squeezed out
        wanted = axes_of(node, given[1] if len(given) > 1 else None) or []
        return any(a % (given[0].ndim + len(wanted)) <= axis for a in wanted)
    if node.kind == "Gather":  # the only sample of the file
        along = node.attribute("axis", 0) % given[0].ndim
        return (along, size) == (axis, 1) and not isinstance(given[1], Tensor) and not given[1].ndim
    return node.kind == "Reshape"


def _repeated(value: Tensor, axis: int, count: Any) -> Tensor:
    """One sample's value for `count` samples."""
    if type(value.shape[axis]) is not int or value.shape[axis] != 1:
        return value
    return value.expand([count if i == axis else -1 for i in range(value.ndim)])


def alike(constants: Mapping[str, Tensor], size: int) -> frozenset[str]:
    """Constants that hold the same for each of `size` samples along axis 0."""
    if size < 2:
        return frozenset()
    found = [name for name, value in constants.items() if value.ndim > 1 and value.shape[0] == size]
    return frozenset(name for name in found if bool((constants[name] == constants[name][:1]).all()))
