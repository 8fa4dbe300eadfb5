"""The values that in-place ops write (`VALUES`), and new parents of written views (`INTO_PARENT`)."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from secateur.graph.memory import Memory
from secateur.graph.node import bound_arguments, kind

Arguments = dict[str, Any]  # of an op, by name

aten = torch.ops.aten

_END = sys.maxsize  # of a slice without an end


class Maker:
    """Inserts new nodes at an in-place op; they carry the note of the same line of code."""

    def __init__(self, graph: fx.Graph, memory: Memory, node: fx.Node) -> None:
        self.graph, self.memory = graph, memory
        self.place = node  # new nodes go before this one
        self.meta: dict[str, Any] = {
            k: v for k, v in node.meta.items() if k in ("stack_trace", "nn_module_stack")
        }

    def call(self, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
        with self.graph.inserting_before(self.place):
            node = self.graph.call_function(op, args, kwargs)
        node.meta.update(self.meta)
        return node

    def joined(self, pieces: fx.Node, now: fx.Node, index: Any, value: fx.Node) -> fx.Node | None:
        """What `split`, `chunk` or `unbind` cut, from its pieces, one of which is new."""
        a = bound_arguments(pieces, pieces.args, pieces.kwargs)
        if "dim" not in a:
            return None
        count = self.memory.lengths[pieces]
        parts = [value if i == index % count else self.call(operator.getitem, now, i) for i in range(count)]
        return self.call(
            aten.stack.default if kind(pieces) == "unbind" else aten.cat.default, parts, a["dim"]
        )


# --- values: (maker, arguments now, as captured) → what is written; None where the op's functional twin is
# right ------


def _zero(maker: Maker, a: Arguments, captured: Arguments) -> fx.Node | None:
    return maker.call(aten.zeros_like.default, a["self"])


def _fill(maker: Maker, a: Arguments, captured: Arguments) -> fx.Node | None:
    """As a sum, which has rules everywhere; whole numbers and truth values by `fill` itself."""
    if not maker.memory.dtypes[captured["self"]].is_floating_point:
        return None
    return maker.call(aten.add.Tensor, maker.call(aten.zeros_like.default, a["self"]), a["value"])


def _copy(maker: Maker, a: Arguments, captured: Arguments) -> fx.Node | None:
    """The source itself, of the shape and type of what it is copied to."""
    memory, source, given, target = maker.memory, a["src"], captured["src"], captured["self"]
    if memory.dtypes[given] != memory.dtypes[target]:
        source = maker.call(aten.to.dtype, source, memory.dtypes[target])
    if memory.shapes[given] != memory.shapes[target]:
        source = maker.call(aten.expand_as.default, source, a["self"])
    return source  # type: ignore[no-any-return]


def _index_put(maker: Maker, a: Arguments, captured: Arguments) -> fx.Node | None:
    """`y[mask] = number` as `where`."""
    memory, (mask, *others), (given, *_) = maker.memory, a["indices"], captured["indices"]
    target, masked = (
        captured["self"],
        memory.dtypes.get(given) == torch.bool and not others and not a["accumulate"],
    )
    if (
        not masked
        or math.prod(memory.shapes[captured["values"]]) != 1
        or not memory.dtypes[target].is_floating_point
    ):
        return None
    for _ in range(len(memory.shapes[target]) - len(memory.shapes[given])):
        mask = maker.call(aten.unsqueeze.default, mask, -1)
    return maker.call(aten.where.self, mask, a["values"], a["self"])


VALUES: dict[str, Callable[[Maker, Arguments, Arguments], fx.Node | None]] = {
    "zero_": _zero,
    "fill_": _fill,
    "copy_": _copy,
    "index_put_": _index_put,
}

# --- into the parent: (maker, view, parent, parent's value before, value of the view) → parent's value after


def _select(maker: Maker, view: fx.Node, parent: fx.Node, before: fx.Node, value: fx.Node) -> fx.Node | None:
    a = bound_arguments(view, view.args, view.kwargs)
    dim, index = _axis(maker, parent, a["dim"]), a["index"]
    if not isinstance(index, int):
        return None
    after = index + 1 if index != -1 else _END
    return _pasted(maker, parent, before, dim, index, after, maker.call(aten.unsqueeze.default, value, dim))


def _slice(maker: Maker, view: fx.Node, parent: fx.Node, before: fx.Node, value: fx.Node) -> fx.Node | None:
    found = _range(view)
    if found is None:
        return None
    dim, taken = _axis(maker, parent, found[0]), found[1]
    if taken.step == 1:
        return _pasted(maker, parent, before, dim, taken.start, taken.stop, value)
    rows = _rows(maker, parent, before, dim, taken)
    if rows is None:
        return None
    column, start = maker.call(aten.unsqueeze.default, value, dim + 1), taken.start % taken.step
    joined = _between(maker, rows, dim + 1, start, start + 1, taken.step, column)
    return maker.call(aten.flatten.using_ints, joined, dim, dim + 1)


def _range(view: fx.Node) -> tuple[int, slice] | None:
    """The axis and range of a `slice` or `narrow`; None where its ends are worked out in the graph."""
    a = bound_arguments(view, view.args, view.kwargs)
    start = a["start"] if a["start"] is not None else 0
    end = a["length"] if "length" in a else _END if a["end"] is None else a["end"]
    if not isinstance(start, int) or not isinstance(end, int):
        return None
    return a["dim"], slice(start, start + end if "length" in a else end, a.get("step", 1))


def _pasted(
    maker: Maker, parent: fx.Node, before: fx.Node, dim: int, start: int, end: int, value: fx.Node
) -> fx.Node:
    """`before` with [start, end) along `dim` replaced.

    The size of axis 0, the batch, is only that of the example.
    """
    size = maker.memory.shapes[parent][dim]
    first, last, _ = slice(start, end).indices(size)
    if last <= first:
        return before
    open_end = dim == 0 and end != _END
    return _between(
        maker, before, dim, start if first else 0, end if open_end or last < size else _END, _END, value
    )


def _between(
    maker: Maker, whole: fx.Node, dim: int, start: int, end: int, size: int, value: fx.Node
) -> fx.Node:
    """The part before `start`, `value`, and the part from `end` on."""
    parts = [value]
    if start != 0:
        parts.insert(0, maker.call(aten.slice.Tensor, whole, dim, 0, start))
    if end != size:
        parts.append(maker.call(aten.slice.Tensor, whole, dim, end, _END))
    return maker.call(aten.cat.default, parts, dim) if len(parts) > 1 else value


def _rows(maker: Maker, parent: fx.Node, before: fx.Node, dim: int, taken: slice) -> fx.Node | None:
    """The axis in rows of `step`, where the slice is one whole column of them."""
    size = maker.memory.shapes[parent][dim]
    start, end, step = taken.indices(size)
    if dim == 0 or size % step or start >= step or end <= size - step + start:
        return None
    return maker.call(aten.unflatten.int, before, dim, [size // step, step])


def _reshaped(
    maker: Maker, view: fx.Node, parent: fx.Node, before: fx.Node, value: fx.Node
) -> fx.Node | None:
    return maker.call(aten.reshape_as.default, value, before)


def _permuted(
    maker: Maker, view: fx.Node, parent: fx.Node, before: fx.Node, value: fx.Node
) -> fx.Node | None:
    """The inverse permutation, read off what the op does to distinct sizes."""
    count = len(maker.memory.shapes[parent])
    probe = torch.empty([2 + i for i in range(count)], device="meta")
    axes = [size - 2 for size in view.target(probe, *view.args[1:], **view.kwargs).shape]  # type: ignore[operator]
    return maker.call(aten.permute.default, value, [axes.index(i) for i in range(count)])


def _axis(maker: Maker, node: fx.Node, dim: int) -> int:
    return dim % len(maker.memory.shapes[node])


INTO_PARENT: dict[str, Callable[[Maker, fx.Node, fx.Node, fx.Node, fx.Node], fx.Node | None]] = {
    "select": _select,
    **dict.fromkeys("slice narrow".split(), _slice),
    **dict.fromkeys("view reshape view_as reshape_as flatten unflatten squeeze unsqueeze".split(), _reshaped),
    **dict.fromkeys(
        "permute transpose t numpy_T mT adjoint swapaxes swapdims movedim moveaxis".split(), _permuted
    ),
}

# The functional forms of writes in decomposed programs → the view that they write, whose arguments they have.
SCATTERS = {"select_scatter": "select", "slice_scatter": "slice"}

# --- reads of what is written: (maker, view, parent, parent's value) → the view, units of other indices left
# free -----


def _selected(maker: Maker, view: fx.Node, parent: fx.Node, value: fx.Node) -> fx.Node | None:
    a = bound_arguments(view, view.args, view.kwargs)
    dim, index = _axis(maker, parent, a["dim"]), a["index"]
    return _column(maker, value, dim, index) if isinstance(index, int) else None


def _strided(maker: Maker, view: fx.Node, parent: fx.Node, value: fx.Node) -> fx.Node | None:
    found = _range(view)
    if found is None or found[1].step == 1:
        return None
    dim = _axis(maker, parent, found[0])
    rows = _rows(maker, parent, value, dim, found[1])
    return None if rows is None else _column(maker, rows, dim + 1, found[1].start % found[1].step)


def _column(maker: Maker, value: fx.Node, dim: int, index: int) -> fx.Node:
    end = index + 1 if index != -1 else _END
    return maker.call(aten.squeeze.dim, maker.call(aten.slice.Tensor, value, dim, index, end), dim)


READS: dict[str, Callable[[Maker, fx.Node, fx.Node, fx.Node], fx.Node | None]] = {
    "select": _selected,
    "slice": _strided,
}
