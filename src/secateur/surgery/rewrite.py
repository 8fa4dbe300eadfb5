"""The graph with its constants rewritten for smaller tensors. One row in `_REWRITES` for each op."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import TreeSpec

from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph, copied
from secateur.graph.labels import varying_axes
from secateur.graph.node import bound_arguments, kind, set_argument
from secateur.graph.ops import of
from secateur.graph.structured import is_size
from secateur.surgery.sizes import Alive, alive_units, kept_along, kept_shape


def rewritten(graph: Graph, coupling: Coupling, alive: Alive) -> fx.GraphModule:
    """The graph for the units that stay, in eval mode; its tensors are still the full-size ones."""
    module = fx.GraphModule(_skeleton(graph), _plain_copy(graph.module.graph), class_name="PrunedGraph")
    table = alive_units(coupling, alive)
    new_nodes = [n for n in module.graph.nodes if n.name not in graph.constants]
    of_streams = {norm.node for stream in coupling.streams for norm in stream.norms}
    for old, new in zip(graph.nodes, new_nodes, strict=True):
        rewrite = _REWRITES.get(kind(old), _READERS.get(kind(old))) if old.op == "call_function" else None
        rewrite = _stream_norm if old in of_streams else rewrite
        if rewrite is not None:
            rewrite(old, new, coupling.levels, table)
    module.graph.lint()
    module.recompile()
    return module.eval()


def _plain_copy(graph: fx.Graph) -> fx.Graph:
    """The graph without notes of its tracing, which cannot be pickled or copied and keep the model alive."""
    plain = copied(graph)
    plain._tracer_cls = None
    for node in plain.nodes:
        node.meta.clear()
    if isinstance(plain._codegen, fx.graph._PyTreeCodeGen):
        info = plain._codegen.pytree_info
        made = _plain_spec(info.out_spec) if info.out_spec is not None else None
        plain._codegen.pytree_info = info._replace(in_spec=_plain_spec(info.in_spec), out_spec=made)
    return plain


def _plain_spec(spec: Any) -> TreeSpec:
    """The same structure without torch's deprecated class of leaves, which warns when it is copied."""
    if not hasattr(spec, "children"):  # torch 2.9, which does not warn
        return spec  # type: ignore[no-any-return]
    return TreeSpec(spec.type, spec.context, [_plain_spec(child) for child in spec.children()])


def _skeleton(graph: Graph) -> nn.Module:
    """Empty modules that hold the graph's tensors under their own names."""
    root = nn.Module()
    for name, tensor in graph.tensors.items():
        *path, leaf = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        original = operator.attrgetter(name)(graph.module)
        if isinstance(original, nn.Parameter):
            owner.register_parameter(leaf, nn.Parameter(tensor, requires_grad=original.requires_grad))
        else:
            owner.register_buffer(leaf, tensor.detach())
    return root


Units = Callable[[fx.Node], tuple[Tensor, ...]]  # of a node: the unit ids of its elements (`Coupling.levels`)


def _resize(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """reshape, expand: sizes that follow the units that stay (a symbolic size in proportion)."""
    name = "shape" if kind(old) == "reshape" else "size"
    full, kept = units(old)[0].shape, kept_shape(units(old), table)
    sizes = list(bound_arguments(new, new.args, new.kwargs)[name])
    offset = len(full) - len(sizes)
    for axis, size in enumerate(sizes):
        before, after = full[axis + offset], kept[axis + offset]
        if before == after or size == -1:
            continue
        if isinstance(size, fx.Node):
            with new.graph.inserting_before(new):
                scaled = new.graph.call_function(operator.mul, (size, after))
                sizes[axis] = new.graph.call_function(operator.floordiv, (scaled, before))
        else:
            sizes[axis] = after
    set_argument(new, name, sizes)


def _unflatten(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    set_argument(new, "sizes", unflattened_sizes(old, units, table))


def unflattened_sizes(node: fx.Node, units: Units, table: Tensor) -> list[Any]:
    """The argument `sizes` of an `unflatten` for the units that stay."""
    a = bound_arguments(node, node.args, node.kwargs)
    kept = kept_shape(units(node), table)
    first = a["dim"] % (len(kept) - len(a["sizes"]) + 1)
    return [s if s == -1 or isinstance(s, fx.Node) else kept[first + i] for i, s in enumerate(a["sizes"])]


def _kept_of_input(old: fx.Node, units: Units, table: Tensor) -> tuple[dict[str, Any], Tensor]:
    """The arguments, and which indices of axis `dim` of the input stay; all of a bare parameter do."""
    a = bound_arguments(old, old.args, old.kwargs)
    levels = units(a["self"])
    return a, kept_along(levels, a["dim"], table) if levels else torch.ones(1, dtype=torch.bool)


def _split(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """split, chunk: the sizes of the parts that stay, where they change."""
    a, keep = _kept_of_input(old, units, table)
    if keep.all():
        return
    if kind(old) == "split_with_sizes":
        sizes = a["split_sizes"]
    elif kind(old) == "chunk":
        sizes = [len(part) for part in keep.chunk(a["chunks"])]
    else:
        sizes = [len(part) for part in keep.split(a["split_size"])]
    new.target = torch.ops.aten.split_with_sizes.default
    new.args = (new.args[0], [int(part.sum()) for part in keep.split(list(sizes))], a["dim"])
    new.kwargs = {}


def _slice(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    a, keep = _kept_of_input(old, units, table)
    if keep.all() or a["step"] != 1:  # whole steps leave
        return
    start, end, _ = slice(a["start"], a["end"]).indices(len(keep))
    set_argument(new, "start", int(keep[:start].sum()))
    set_argument(new, "end", int(keep[:end].sum()))


def _conv_groups(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    set_argument(new, "groups", conv_groups(old, units, table))


def conv_groups(node: fx.Node, units: Units, table: Tensor) -> int:
    """The number of groups of a convolution for the units that stay; a depthwise one has one per channel."""
    a = bound_arguments(node, node.args, node.kwargs)
    channels, *_ = levels = units(a["input"])
    depthwise = 1 < a["groups"] == channels.shape[1] and 1 in varying_axes(channels)
    return kept_shape(levels, table)[1] if depthwise else a["groups"]


def _norm_groups(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    set_argument(new, "num_groups", norm_groups(old, units, table))


def norm_groups(node: fx.Node, units: Units, table: Tensor) -> int:
    """Whole norm groups leave: the others keep their number of channels."""
    groups = int(bound_arguments(node, node.args, node.kwargs)["num_groups"])
    return groups * kept_shape(units(node), table)[1] // units(node)[0].shape[1]


def _mean(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """A mean over the width of each head stays one over the full width."""
    if (left := _share_left(old, units, table)) < 1:
        _multiply(new, left)


def _rms_norm(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """The same of a norm: x / √(Σx² / D + ε) = √(D / d) · x / √(Σx² / d + ε D / d)."""
    if (left := _share_left(old, units, table)) == 1:
        return
    _narrow(old, new, left)
    _multiply(new, left**-0.5)


def _layer_norm(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """The same of a norm that takes the mean off; written out, since the op knows no other width."""
    if (left := _share_left(old, units, table)) == 1:
        return
    a, op = bound_arguments(new, new.args, new.kwargs), torch.ops.aten
    with new.graph.inserting_before(new):
        call = new.graph.call_function

        def mean(x: fx.Node) -> fx.Node:
            return call(op.mul.Tensor, (call(op.mean.dim, (x, [-1], True)), left))

        first = mean(a["input"])
        square = mean(call(op.mul.Tensor, (a["input"], a["input"])))
        variance = call(op.sub.Tensor, (square, call(op.mul.Tensor, (first, first))))
        root = call(op.rsqrt.default, (call(op.add.Tensor, (variance, a["eps"])),))
        normed = call(op.mul.Tensor, (call(op.sub.Tensor, (a["input"], first)), root))
    new.target, new.kwargs = op.add.Tensor, {}
    with new.graph.inserting_before(new):
        new.args = (call(op.mul.Tensor, (normed, a["weight"])), a["bias"])
    if a["bias"] is None:
        new.target, new.args = op.mul.Tensor, (normed, a["weight"])


def _share_left(old: fx.Node, units: Units, table: Tensor) -> float:
    """The share of the last axis of the input that stays, where only widths of heads leave it."""
    a = bound_arguments(old, old.args, old.kwargs)
    value = a["self" if kind(old) == "mean" else "input"]
    levels = units(value)
    dims = a.get("dim") if kind(old) == "mean" else [-1]
    if not levels or dims is None or [dim % levels[0].ndim for dim in dims] != [levels[0].ndim - 1]:
        return 1.0
    return float(kept_along(levels, -1, table).double().mean())


def _multiply(node: fx.Node, factor: float) -> None:
    """What reads the node reads it times a number."""
    readers = list(node.users)
    with node.graph.inserting_after(node):
        scaled = node.graph.call_function(torch.ops.aten.mul.Tensor, (node, factor))
    for reader in readers:
        reader.replace_input_with(node, scaled)


def _stream_norm(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """A norm over a stream: the mean square of fewer coordinates is larger, and so is what is added to it.

    Its weight makes up for the rest (`surgery.sizes`).
    """
    size, kept = norm_sizes(old, units, table)
    if kept < size:
        _narrow(old, new, kept / size)


def _narrow(old: fx.Node, new: fx.Node, left: float) -> None:
    """A norm over a share of what it was over, and as much more added to its mean square."""
    a = bound_arguments(old, old.args, old.kwargs)
    set_argument(new, "normalized_shape", [round(left * a["normalized_shape"][0])])
    if a["eps"] is not None:
        set_argument(new, "eps", a["eps"] / left)


def norm_sizes(node: fx.Node, units: Units, table: Tensor) -> tuple[int, int]:
    """How many numbers a norm normalises along the last axis, before and after."""
    shape = units(node)[0].shape
    return shape[-1], kept_shape(units(node), table)[-1]


def _attention(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """The scale that follows from the width of the heads stays what it was; a mask follows the heads."""
    a = bound_arguments(old, old.args, old.kwargs)
    query, mask = units(a["query"]), bound_arguments(new, new.args, new.kwargs)["attn_mask"]
    if a["scale"] is None and not bool(kept_along(query, -1, table).all()):
        set_argument(new, "scale", query[0].shape[-1] ** -0.5)
    if mask is not None:
        set_argument(new, "attn_mask", _sliced(new, a["attn_mask"], mask, [-3], units(old), units, table))


def _tables(old: fx.Node, new: fx.Node, units: Units, table: Tensor) -> None:
    """Numbers without units, such as the cosines of rotary embeddings, lose the places of units that go."""
    for place, (argument, number) in enumerate(zip(old.args, new.args, strict=True)):
        if isinstance(argument, fx.Node) and isinstance(number, fx.Node) and not is_size(argument):
            axes = range(-units(old)[0].ndim, 0)
            new.update_arg(place, _sliced(new, argument, number, axes, units(old), units, table))


def _sliced(
    reader: fx.Node,
    argument: fx.Node,
    number: fx.Node,
    axes: Iterable[int],
    out: tuple[Tensor, ...],
    units: Units,
    table: Tensor,
) -> fx.Node:
    """`number`, which is `argument` in the smaller graph, with the places that stay in `out` alone."""
    mine = units(argument)
    if argument.op != "call_function" or not mine:
        return number
    for axis in axes:
        keep = kept_along(out, axis, table)
        whole = mine[0].ndim >= -axis and mine[0].shape[axis] == len(keep) > 1
        if whole and not bool(keep.all()) and bool(kept_along(mine, axis, table).all()):
            with reader.graph.inserting_before(reader):
                number = _picked(reader.graph, number, axis, keep)
    return number


def _picked(graph: fx.Graph, value: Any, axis: int, keep: Tensor) -> fx.Node:
    """The indices of `axis` that stay, as slices, joined."""
    edges = torch.nn.functional.pad(keep.int(), (1, 1)).diff().nonzero().flatten().reshape(-1, 2).tolist()
    parts = [graph.call_function(torch.ops.aten.slice.Tensor, (value, axis, a, b)) for a, b in edges]
    return parts[0] if len(parts) == 1 else graph.call_function(torch.ops.aten.cat.default, (parts, axis))


_REWRITES: dict[str, Callable[[fx.Node, fx.Node, Units, Tensor], None]] = {
    **dict.fromkeys("reshape expand".split(), _resize),
    **dict.fromkeys("split split_with_sizes chunk".split(), _split),
    **dict.fromkeys(of("convolution"), _conv_groups),
    "unflatten": _unflatten,
    "slice": _slice,
    "group_norm": _norm_groups,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
}
_READERS: dict[str, Callable[[fx.Node, fx.Node, Units, Tensor], None]] = {  # numbers that follow from units
    **dict.fromkeys("add sub mul".split(), _tables),
    "mean": _mean,
    "scaled_dot_product_attention": _attention,
}
