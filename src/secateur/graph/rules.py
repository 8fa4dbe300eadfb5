"""Coupling rules: how each op ties the units of its inputs, weights and output together.

A rule gets the labels said so far, the node, its arguments by name (tensors as `Value`) and the op's real
output on the example, and returns the output's label tensor (or one for each output). The table stands at the
bottom; to teach secateur a new op, add one row there.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from secateur.graph import ops
from secateur.graph.capture import call_op
from secateur.graph.labels import FIXED, Labels, compacted, fixed, varying_axes
from secateur.graph.node import kind

Arguments = dict[str, Any]
Rule = Callable[[Labels, fx.Node, Arguments, Any], Any]


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the example run with the labels of its elements; `tensor` names a bare parameter or
    buffer.
    """

    data: Tensor
    labels: Tensor
    tensor: str = ""
    axes: tuple[
        int, ...
    ] = ()  # for a bare parameter: the parameter's axis behind each axis here (after transposes)


def values_in(tree: Any) -> Iterator[Value]:
    return (leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Value))


def element_labels(labels: Labels, value: Value) -> Tensor:
    """Labels of a value's elements; those of a bare parameter are given out on its first element-wise use."""
    if not value.tensor or value.data.numel() == 1:
        return value.labels
    original = labels.element(
        value.tensor, value.data.permute([value.axes.index(i) for i in range(value.data.ndim)])
    )
    return original.permute(value.axes)


# --- rules --------------------------------------------------------------------------------------------------


def same(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Element-wise functions of one tensor keep its labels."""
    values = list(values_in(list(a.values())))
    return element_labels(labels, values[0]) if len(values) == 1 else joined(labels, node, a, out)


def joined(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Element-wise ops of several tensors: elements that meet leave together; a broadcast operand is
    neutral.
    """
    operands = [v for v in values_in(list(a.values())) if v.data.numel() > 1]
    plain = [v for v in operands if not v.tensor]
    if not plain and all(max(v.data.shape) == v.data.numel() for v in operands):
        plain = operands  # arithmetic on vectors of parameters, of which units may have one number each
    joined_labels, unit_axes, free_axes = fixed(out.shape), set[int](), set(range(out.ndim))
    for value in sorted(plain, key=lambda v: not varying_axes(v.labels)) + [
        v for v in operands if v not in plain
    ]:
        offset = out.ndim - value.data.ndim
        broadcast = {i for i in range(out.ndim) if i < offset or value.data.shape[i - offset] < out.shape[i]}
        if value not in plain and (not unit_axes or unit_axes & broadcast):
            continue  # a parameter that meets no unit, or the same for all units
        mine = element_labels(labels, value).expand(out.shape)
        my_axes = varying_axes(mine)
        if unit_axes & broadcast or (not unit_axes and not my_axes):
            labels.pin(mine, f"broadcast over other units by {node.name}")
        elif not unit_axes or my_axes & free_axes:
            labels.pin(joined_labels, f"broadcast over other units by {node.name}")
            joined_labels, unit_axes, free_axes = mine, my_axes, broadcast
        else:
            labels.equate(joined_labels, mine, f"joined with a value that cannot shrink by {node.name}")
            free_axes &= broadcast
    return joined_labels


def moved(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Ops that only move elements are run on the labels themselves; places to move them to stay as they
    are.
    """

    def to_labels(leaf: Any) -> Any:
        return element_labels(labels, leaf).contiguous() if isinstance(leaf, Value) else leaf

    def to_places(leaf: Any) -> Any:
        if not isinstance(leaf, Value):
            return leaf
        labels.pin(leaf.labels, f"places in {node.name}")
        return leaf.data

    given = {k: pytree.tree_map(to_places if k in _PLACES else to_labels, value) for k, value in a.items()}
    made = call_op(node, (), given, like=torch.zeros(0, dtype=torch.int64))
    return pytree.tree_map(compacted, made)


_PLACES = {"index", "indices", "repeats", "tensor_indices_or_sections"}  # arguments


def chunked(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Equal chunks stay equal: units at the same offset of each leave together."""
    parts = list(moved(labels, node, a, out))
    for part in parts[1:]:
        if part.shape == parts[0].shape:
            labels.equate(parts[0], part, f"chunked beside a value that cannot shrink by {node.name}")
    return parts


def picked(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Picking by fixed indices along an axis: no unit of that axis may leave, or the indices would be
    wrong.
    """
    axes = a[ops.OPS[kind(node)].axes]
    for axis in [axes] if isinstance(axes, int) else axes or range(a["self"].data.ndim):
        labels.whole.append((element_labels(labels, a["self"]), axis, f"picked by index in {node.name}"))
    return moved(labels, node, a, out)


def item(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Tensor:
    """Python's `value[index]` on a tensor."""
    return element_labels(labels, a["0"])[a["1"]]


def sliced(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    rule = moved if a["step"] == 1 else picked
    return rule(labels, node, a, out)  # type: ignore[no-any-return]


def gathered(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Indexing with tensors: moved as they are, with every indexed axis left whole."""
    value = a["self"]
    for axis, index in enumerate(a["indices"]):
        if index is not None:
            labels.whole.append((element_labels(labels, value), axis, f"indexed by {node.name}"))
    return moved(labels, node, a, out)  # type: ignore[no-any-return]


def put(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Writing at indices (`y[:, [0, 3]] = 0`): the indexed axes stay whole, and so do units that are
    written.
    """
    value, written = a["self"], a["values"]
    indices = [index for index in a["indices"] if index is not None]
    if value.tensor or any(index.data.dtype == torch.bool for index in indices):
        return unknown(labels, node, a, out)  # type: ignore[no-any-return]
    labels.pin(written.labels, f"written at indices by {node.name}")
    for axis, index in enumerate(a["indices"]):
        if index is not None:
            labels.whole.append((value.labels, axis, f"indexed by {node.name}"))
    return value.labels  # type: ignore[no-any-return]


def padded(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Padding around units (spatial) belongs to them; constants beside units (more channels) belong to
    nobody.
    """
    steady = element_labels(labels, a["self"])
    varying = varying_axes(steady)
    amounts = a["pad"] if "pad" in a else a["padding"]
    for i, axis in enumerate(range(steady.ndim - 1, steady.ndim - 1 - len(amounts) // 2, -1)):
        before, after = amounts[2 * i : 2 * i + 2]
        if axis not in varying:
            steady = steady.narrow(axis, 0, 1)
        elif before or after:
            if a.get("mode", "constant") != "constant" or "value" not in a:
                return frozen(labels, a, out, f"padded with its own units by {node.name}")  # type: ignore[no-any-return]
            beside = [0] * (2 * i) + [before, after]
            steady = torch.nn.functional.pad(steady, beside, value=FIXED)
    return steady.expand(out.shape)


def pooled(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Pooling and resampling over the trailing axes: units may not differ along them."""
    value = next(values_in(list(a.values())))
    spatial = range(2, value.data.ndim)
    steady = labels.uniform(value.labels, list(spatial), f"pooled together by {node.name}")
    for axis in spatial:
        steady = steady.narrow(axis, 0, 1)
    return pytree.tree_map(lambda t: steady.expand(t.shape), out)


def sampled(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Values between the points of space: channels pass, places stay."""
    frozen(labels, {"grid": a["grid"]}, out, f"places to sample at in {node.name}")
    return pooled(labels, node, {"input": a["input"]}, out)  # type: ignore[no-any-return]


def reduced(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Reductions over some axes: units may not differ along them."""
    value, dims = a["self"], a.get("dim")
    axes = range(value.data.ndim) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    axes = sorted({axis % value.data.ndim for axis in axes})
    steady = labels.uniform(element_labels(labels, value), axes, f"reduced over its units by {node.name}")
    for axis in axes:
        steady = steady.narrow(axis, 0, 1)
    if not a.get("keepdim", False):
        for axis in reversed(axes):
            steady = steady.squeeze(axis)
    return pytree.tree_map(lambda t: steady.expand(t.shape), out)


def along(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Softmax, cumulative sums and the like mix elements along `dim`: units may not differ along it."""
    value = a["self"]
    return labels.uniform(value.labels, [a["dim"]], f"mixed along its axis by {node.name}")


def unknown(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """No rule: nothing that the op touches may change."""
    return frozen(
        labels, a, out, node.meta.get("computed") or f"no coupling rule for {node.target} ({node.name})"
    )


def unrelated(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """A new tensor that depends on sizes alone has no units, and pins none."""
    return pytree.tree_map(lambda t: fixed(t.shape), out)


def recurrent(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """Whole, under the name that the layer has in the model."""
    owner = next((v.tensor for v in values_in(a["params"]) if v.tensor), "").rpartition(".")[0]
    return frozen(labels, a, out, f"recurrent layers stay whole ({owner or node.name})")


def whole(labels: Labels, node: fx.Node, a: Arguments, out: Any) -> Any:
    """An op of another format that is run as it is."""
    return frozen(labels, a, out, f"{a['name']} has no rule and stays whole")


def frozen(labels: Labels, a: Arguments, out: Any, reason: str) -> Any:
    for value in values_in(list(a.values())):
        if value.tensor:
            labels.blocked.setdefault(value.tensor, reason)
        else:
            labels.pin(value.labels, reason)
    return pytree.tree_map(lambda t: fixed(t.shape), out)


# --- layers with weights ------------------------------------------------------------------------------------


def per_channel(
    labels: Labels, x: Value, names: Sequence[Any], node: fx.Node, groups: int | None = None
) -> Tensor:
    """Ops with one parameter per channel of axis 1 (batch norm, PReLU…): slots that only pass units
    through.
    """
    others = [axis for axis in range(x.data.ndim) if axis != 1]
    steady = labels.uniform(x.labels, others, f"normalised together by {node.name}")
    if varying_axes(steady):
        channels = steady.select(0, 0).reshape(steady.shape[1], -1)[:, 0]
        if groups is not None:
            by_group = channels.reshape(groups, -1)
            labels.equate(
                by_group, by_group[:, :1], f"normalised with a value that cannot shrink by {node.name}"
            )
        for value in names:
            if isinstance(value, Value) and value.data.numel() > 1:
                if not value.tensor:
                    labels.pin(channels, f"a parameter of {node.name} is computed in the graph")
                else:
                    labels.index(value.tensor, 0, channels, "through")
    return steady


def batch_normed(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    return per_channel(
        labels, a["input"], [a["weight"], a["bias"], a["running_mean"], a["running_var"]], node
    )


def group_normed(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Whole norm groups leave together, so that the others keep their statistics."""
    return per_channel(labels, a["input"], [a["weight"], a["bias"]], node, groups=a["num_groups"])


def prelu(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    return per_channel(labels, a["self"], [a["weight"]], node)


def layer_normed(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Every output of a layer norm depends on all units of the normalised axes."""
    x, n = a["input"], len(a["normalized_shape"])
    if varying_axes(x.labels) & set(range(x.data.ndim - n, x.data.ndim)):
        labels.pin(x.labels, f"layer-normed by {node.name}")
    return x.labels  # type: ignore[no-any-return]


def _computed(node: fx.Node, *parameters: Any) -> str:
    """Why a layer stays whole of which some parameter is no bare one (weight norm, parametrisations); else
    empty.
    """
    computed = any(isinstance(value, Value) and not value.tensor for value in parameters)
    told = (
        f"the weight of {node.name} is computed in the graph, by a weight norm, a mask or a parametrisation"
    )
    return (node.meta.get("computed") or told) if computed else ""


def embedded(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    weight = a["weight"]
    if not weight.tensor:
        return unknown(labels, node, a, out)  # type: ignore[no-any-return]
    rows, width = weight.data.shape
    labels.index(weight.tensor, weight.axes[0], fixed([rows]), "consumer")  # the vocabulary stays whole
    return labels.index(weight.tensor, weight.axes[1], labels.fresh(width), "producer").expand(out.shape)


def convolved(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Convolution and its transpose: input channels are read, output channels are made.

    Depthwise: channel c of the input is made into its own outputs, so they leave together. Grouped: the units
    at the same offset of every group leave together, so that the groups stay equal (weights keep their block
    shape).
    """
    x, weight, bias, groups = a["input"], a["weight"], a["bias"], a["groups"]
    transposed = "transpose" in str(node.target)
    if computed := _computed(node, weight, bias):
        return frozen(labels, a, out, computed)  # type: ignore[no-any-return]
    n_in, n_out = x.data.shape[1], out.shape[1]
    others = [axis for axis in range(x.data.ndim) if axis != 1]
    steady = labels.uniform(x.labels, others, f"convolved together by {node.name}")
    channels = steady.select(0, 0).reshape(n_in, -1)[:, 0]  # shape: (n_in,)
    has_units = bool((channels != FIXED).any())
    in_axis, out_axis = (weight.axes[i] for i in ((0, 1) if transposed else (1, 0)))

    depthwise = 1 < groups == n_in and has_units
    if depthwise:
        per_input = n_out // n_in
        own = channels if transposed else channels.repeat_interleave(per_input)
        made = labels.index(weight.tensor, weight.axes[0], own, "through")
        made = made.repeat_interleave(per_input) if transposed else made
    else:
        by_group = channels.reshape(groups, -1)
        labels.equate(
            by_group, by_group[:1], f"read by a grouped convolution with a fixed value by {node.name}"
        )
        labels.index(weight.tensor, in_axis, channels if transposed else by_group[0], "consumer")
        offsets = labels.fresh(n_out // groups)
        made = labels.index(
            weight.tensor, out_axis, offsets if transposed else offsets.repeat(groups), "producer"
        )
        made = made.repeat(groups) if transposed else made
    if isinstance(bias, Value):
        labels.index(bias.tensor, 0, made, "through" if depthwise else "producer")
    return made.reshape(1, n_out, *[1] * (out.ndim - 2)).expand(out.shape)


def linear(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    x, weight, bias = a["input"], a["weight"], a["bias"]
    if computed := _computed(node, weight, bias):
        return frozen(labels, a, out, computed)  # type: ignore[no-any-return]
    lead = string.ascii_lowercase[: x.data.ndim - 1]
    made = contracted(labels, node, x, lead + "I", weight, "OI", lead + "O", out)
    outputs = labels.axes.get((weight.tensor, weight.axes[0]))
    if isinstance(bias, Value) and outputs is not None:
        labels.index(bias.tensor, 0, outputs, "producer")
    return made


def matmul(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    x, y = values_in(list(a.values()))
    nx, ny = x.data.ndim, y.data.ndim
    lead = string.ascii_lowercase[: max(nx, ny, 2) - 2]
    xs = "K" if nx == 1 else lead[len(lead) - (nx - 2) :] + "NK"
    ys = "K" if ny == 1 else lead[len(lead) - (ny - 2) :] + "KM"
    outs = lead + ("N" if nx > 1 else "") + ("M" if ny > 1 else "")
    if x.tensor and not y.tensor:
        return contracted(labels, node, y, ys, x, xs, outs, out)
    return contracted(labels, node, x, xs, y, ys, outs, out)


def matmul_added(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """addmm, baddbmm: the product, joined element-wise with `self`."""
    product = Value(out, matmul(labels, node, {k: v for k, v in a.items() if k != "self"}, out))
    return joined(labels, node, {"self": a["self"], "product": product}, out)


def einsum(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    left, arrow, outs = a["equation"].replace(" ", "").partition("->")
    terms, operands = left.split(","), a["tensors"]
    if "." in left or not arrow or len(operands) != 2 or any(len(set(t)) < len(t) for t in terms):
        return unknown(labels, node, a, out)  # type: ignore[no-any-return]
    pairs = sorted(zip(operands, terms, strict=True), key=lambda pair: bool(pair[0].tensor))
    (x, xs), (y, ys) = pairs
    return contracted(labels, node, x, xs, y, ys, outs, out)


def attention(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """softmax(q kᵀ) v: heads (a batch axis of both products) are units; so are, without heads, the columns of
    v.
    """
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    lead = string.ascii_lowercase[: q.data.ndim - 2]
    shape = (*q.data.shape[:-1], k.data.shape[-2])
    if a["enable_gqa"] and k.data.shape[-3] != q.data.shape[-3]:
        repeats = q.data.shape[-3] // k.data.shape[-3]
        k, v = (
            Value(t.data.repeat_interleave(repeats, -3), t.labels.repeat_interleave(repeats, -3))
            for t in (k, v)
        )
    scores = contracted(
        labels, node, q, lead + "NK", k, lead + "MK", lead + "NM", torch.empty(shape, device="meta")
    )
    if a["scale"] is None and varying_axes(q.labels) == {q.data.ndim - 1}:
        labels.pin(q.labels, f"the scale of {node.name} depends on the width of its heads")
    if isinstance(mask, Value):
        both = {"scores": Value(torch.empty(shape, device="meta"), scores), "mask": mask}
        scores = joined(labels, node, both, torch.empty(shape, device="meta"))
    scores = labels.uniform(scores, [-1], f"mixed along its axis by {node.name}")
    weights = Value(torch.empty(shape, device="meta"), scores)
    return contracted(labels, node, weights, lead + "NM", v, lead + "MD", lead + "ND", out)


def contracted(
    labels: Labels, node: fx.Node, x: Value, xs: str, y: Value, ys: str, outs: str, out: Tensor
) -> Tensor:
    """A product in Einstein's notation, x[xs] · y[ys] → out[outs], y perhaps a weight."""
    if x.tensor:
        return unknown(labels, node, {"x": x, "y": y}, out)  # type: ignore[no-any-return]
    rule = _contracted_with_weight if y.tensor else _contracted_activations
    return rule(labels, node, x, xs, y, ys, outs, out)


def _contracted_with_weight(
    labels: Labels, node: fx.Node, x: Value, xs: str, w: Value, ws: str, outs: str, out: Tensor
) -> Tensor:
    """Along one letter of the weight units are read, passed through or made; its other axes stay whole."""
    varying = [xs[axis] for axis in sorted(varying_axes(x.labels))]
    read = [c for c in varying if c in ws and c not in outs]
    through = [c for c in varying if c in ws and c in outs]
    own = [c for c in ws if c in outs and c not in xs and w.data.shape[ws.index(c)] > 1]
    stands = {c: (fixed([size]), "consumer") for c, size in zip(ws, w.data.shape, strict=True)}
    steady = x.labels
    if read or through:
        letter = (read or through)[0]
        steady = labels.uniform(
            x.labels, [i for i, c in enumerate(xs) if c != letter], f"read together by {node.name}"
        )
        stands[letter] = _spread(steady, xs, letter, None), "consumer" if read else "through"
    elif varying:
        labels.crossed.setdefault(w.tensor, f"the input of {node.name} carries units along another axis")
    made = own[0] if own and not through and (read or not varying) else ""
    if made:
        stands[made] = labels.fresh(w.data.shape[ws.index(made)]), "producer"
    vectors = {c: labels.index(w.tensor, w.axes[ws.index(c)], *stand) for c, stand in stands.items()}
    if made:
        return _spread(vectors[made], made, outs, out)
    return fixed(out.shape) if read else _spread(steady, xs, outs, out)


def _contracted_activations(
    labels: Labels, node: fx.Node, x: Value, xs: str, y: Value, ys: str, outs: str, out: Tensor
) -> Tensor:
    shared = [c for c in xs if c in ys]
    for value, letters in ((x, xs), (y, ys)):
        if {letters[axis] for axis in varying_axes(value.labels)} & set(shared) & set(outs):
            break
    else:
        return _contracted_rows(labels, node, x, xs, y, ys, outs, out)
    batch = [c for c in shared if c in outs]
    reason = f"one head with a value that cannot shrink in {node.name}"
    heads = []
    for value, letters in ((x, xs), (y, ys)):
        axes = [axis for axis, c in enumerate(letters) if c not in batch]
        steady = labels.uniform(value.labels, axes, reason) if axes else value.labels
        heads.append(_spread(steady, letters, "".join(batch), None))
    labels.equate(heads[0], heads[1], reason)
    return _spread(torch.broadcast_tensors(*heads)[0], "".join(batch), outs, out)


def _contracted_rows(
    labels: Labels, node: fx.Node, x: Value, xs: str, y: Value, ys: str, outs: str, out: Tensor
) -> Tensor:
    """No units along a batch axis: contracted ones leave together, those of rows or columns pass on."""
    reason = f"contracted with a value that cannot shrink by {node.name}"
    summed = "".join(c for c in xs if c in ys and c not in outs)
    sides = []
    for value, letters in ((x, xs), (y, ys)):
        steady, varying = value.labels, {letters[axis] for axis in varying_axes(value.labels)}
        if varying & set(summed):
            steady = labels.uniform(steady, [i for i, c in enumerate(letters) if c not in summed], reason)
        sides.append(_spread(steady, letters, summed, None) if varying & set(summed) else None)
    if any(side is not None for side in sides):
        for value, side in zip((x, y), sides, strict=True):
            if side is not None:
                labels.pin(
                    value.labels,
                    f"summed over by {node.name}, where no weight could make up for a removed unit",
                )
        a, b = (side if side is not None else fixed([1] * len(summed)) for side in sides)
        labels.equate(a, b, reason)
    rows = {xs[axis] for axis in varying_axes(x.labels)} & set(outs)
    columns = {ys[axis] for axis in varying_axes(y.labels)} & set(outs)
    if sides[0] is None and rows:
        if sides[1] is None and columns:
            labels.pin(y.labels, f"crossed with other units by {node.name}")
        return _spread(x.labels, xs, outs, out)
    if sides[1] is None and columns:
        return _spread(y.labels, ys, outs, out)
    return fixed(out.shape)


def _spread(source: Tensor, letters: str, wanted: str, like: Tensor | None) -> Tensor:
    """Labels over the axes `wanted`: those of `letters` that are missing are dropped, new ones do not
    change.
    """
    for axis, letter in enumerate(letters):
        if letter not in wanted:
            source = source.narrow(axis, 0, 1)
    kept = [c for c in letters if c in wanted]
    source = source.reshape([s for s, c in zip(source.shape, letters, strict=True) if c in wanted])
    source = source.permute([kept.index(c) for c in wanted if c in kept])
    for axis, letter in enumerate(wanted):
        if letter not in kept:
            source = source.unsqueeze(axis)
    return source.expand(like.shape) if like is not None and len(wanted) == like.ndim else source


_BY_FAMILY: dict[ops.Family, Rule] = {
    "arithmetic": joined,
    "attention": attention,
    "batch_norm": batch_normed,
    "choice": joined,
    "comparison": joined,
    "convolution": convolved,
    "copy": same,
    "dropout": same,
    "embedding": embedded,
    "filled": same,
    "foreign": whole,
    "function": same,
    "item": item,
    "join": moved,
    "linear": linear,
    "log_softmax": along,
    "padding": padded,
    "pick": picked,
    "pooling": pooled,
    "product": matmul,
    "put": put,
    "recurrent": recurrent,
    "reduction": reduced,
    "reorder": moved,
    "repeat": moved,
    "resampling": pooled,
    "reshape": moved,
    "sampling": sampled,
    "scan": along,
    "size": unrelated,
    "softmax": along,
    "split": moved,
    "transpose": moved,
}
_BY_OP: dict[str, Rule] = {  # these go before their family
    **dict.fromkeys("addmm baddbmm".split(), matmul_added),
    **dict.fromkeys("roll tensor_split unbind".split(), picked),
    **dict.fromkeys("instance_norm".split(), batch_normed),
    **dict.fromkeys("layer_norm rms_norm".split(), layer_normed),
    "chunk": chunked,
    "einsum": einsum,
    "group_norm": group_normed,
    "im2col": unknown,
    "index": gathered,
    "prelu": prelu,
    "slice": sliced,
}
RULES: dict[str, Rule] = {
    name: _BY_OP.get(name, _BY_FAMILY.get(row.family, unknown)) for name, row in ops.OPS.items()
}
