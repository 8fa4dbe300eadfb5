"""Coupling rules of products: matrix products, einsum and attention, all in Einstein's notation."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from secateur.graph.head_norms import vanishes
from secateur.graph.labels import FIXED, Labels, compressed, fixed, varying_axes
from secateur.graph.values import Arguments, Value, joined, unknown, values_in


def matmul(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """Matrix products of any numbers of axes; one operand may be a weight."""
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


def einsum(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    left, arrow, outs = a["equation"].replace(" ", "").partition("->")
    terms, operands = left.split(","), a["tensors"]
    if "." in left or not arrow or len(operands) != 2 or any(len(set(t)) < len(t) for t in terms):
        return unknown(labels, node, a, out)
    pairs = sorted(zip(operands, terms, strict=True), key=lambda pair: bool(pair[0].tensor))
    (x, xs), (y, ys) = pairs
    return contracted(labels, node, x, xs, y, ys, outs, out)


def attention(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """softmax(q kᵀ) v: units are heads (a batch axis of both products), or else the columns of v."""
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    if labels.widths and not labels.tables and a["scale"] is None:
        for value in (q, k, v):  # the op of a file could not be told another scale
            labels.pin(value.labels, f"{node.name} divides scores by the root of the width of its heads")
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
    if isinstance(mask, Value):
        both = {"scores": Value(torch.empty(shape, device="meta"), scores), "mask": mask}
        scores = joined(labels, node, both, torch.empty(shape, device="meta"))
    scores = labels.uniform(scores, [-1], f"mixed along its axis by {node.name}")
    weights = Value(torch.empty(shape, device="meta"), scores)
    return contracted(labels, node, weights, lead + "NM", v, lead + "MD", lead + "ND", out)


def contracted(
    labels: Labels, node: fx.Node, x: Value, xs: str, y: Value, ys: str, outs: str, out: Tensor
) -> Any:
    """A product in Einstein's notation, x[xs] · y[ys] → out[outs]; y may be a weight."""
    if x.tensor:
        return unknown(labels, node, {"x": x, "y": y}, out)
    rule = _with_weight if y.tensor else _of_activations
    return rule(labels, node, x, xs, y, ys, outs, out)


def _letters(value: Value, letters: str) -> list[str]:
    """The letters of the axes along which units differ."""
    return [letters[axis] for axis in sorted(varying_axes(value.labels))]


# --- with a weight ------------------------------------------------------------------------------------------


def _with_weight(
    labels: Labels, node: fx.Node, x: Value, xs: str, w: Value, ws: str, outs: str, out: Tensor
) -> Tensor:
    """Along one letter of the weight units are read or passed through, along one made; others stay whole."""
    carried = _letters(x, xs)
    met = [c for c in carried if c in ws]
    read = [c for c in met if c not in outs]
    stands, steady = _whole(w, ws), x.labels
    if met:
        letter = (read or met)[0]
        steady = _alike_but_along(labels, x, xs, letter, f"read together by {node.name}")
        stands[letter] = _spread(steady, xs, letter, None), "consumer" if read else "through"
    elif carried:
        labels.crossed.setdefault(w.tensor, f"the input of {node.name} carries units along another axis")
    own = _own_letters(w, ws, xs, outs) if read == met and bool(read) == bool(carried) else ""
    made = own[-1:] if labels.widths else own[:1]
    if made:
        stands[made] = labels.fresh(w.data.shape[ws.index(made)]), "producer"
    if len(own) > 1 and labels.widths:
        labels.stacked.append(stands[made][0])
    vectors = {c: labels.index(w.tensor, w.axes[ws.index(c)], *stand) for c, stand in stands.items()}
    if made:
        return _spread(vectors[made], made, outs, out)
    return fixed(out.shape) if read else _spread(steady, xs, outs, out)


def _whole(w: Value, ws: str) -> dict[str, tuple[Tensor, str]]:
    """The labels and the role of each axis of a weight without units."""
    return {c: (fixed([size]), "consumer") for c, size in zip(ws, w.data.shape, strict=True)}


def _alike_but_along(labels: Labels, value: Value, letters: str, kept: str, reason: str) -> Tensor:
    """The value's labels, made to differ along the axes `kept` alone."""
    others = [axis for axis, c in enumerate(letters) if c not in kept]
    return labels.uniform(value.labels, others, reason) if others else value.labels


def _own_letters(w: Value, ws: str, xs: str, outs: str) -> str:
    """The letters of the output that the weight alone has: heads, then their width, where there are two."""
    sizes = zip(ws, w.data.shape, strict=True)
    return "".join(c for c, size in sizes if c in outs and c not in xs and size > 1)


# --- of two activations -------------------------------------------------------------------------------------


def _of_activations(
    labels: Labels, node: fx.Node, x: Value, xs: str, y: Value, ys: str, outs: str, out: Tensor
) -> Tensor:
    batch = "".join(c for c in xs if c in ys and c in outs)
    if not {*_letters(x, xs), *_letters(y, ys)} & set(batch):
        return _by_rows(labels, node, x, xs, y, ys, outs, out)
    if labels.widths:
        x, y = (_joined_heads(labels, node, t, letters, batch) for t, letters in ((x, xs), (y, ys)))
        return _by_rows(labels, node, x, xs, y, ys, outs, out)
    return _by_heads(labels, node, x, xs, y, ys, batch, outs, out)


def _joined_heads(labels: Labels, node: fx.Node, value: Value, letters: str, batch: str) -> Value:
    """The value with units that do not differ along the batch axes: the same of every head is one unit."""
    kept = "".join(c for c in letters if c not in batch)
    steady = _alike_but_along(labels, value, letters, kept, f"one for each head in {node.name}")
    if set(_letters(value, letters)) & set(batch):
        labels.columns.append(compressed(steady))
    return Value(value.data, steady)


def _by_heads(
    labels: Labels, node: fx.Node, x: Value, xs: str, y: Value, ys: str, batch: str, outs: str, out: Tensor
) -> Tensor:
    """Units along a batch axis (heads) leave both sides together."""
    reason = f"one head with a value that cannot shrink in {node.name}"
    heads = []
    for value, letters in ((x, xs), (y, ys)):
        steady = _alike_but_along(labels, value, letters, batch, reason)
        heads.append(_spread(steady, letters, batch, None))
    labels.equate(heads[0], heads[1], reason)
    labels.heads.append(compressed(heads[0]))
    return _spread(torch.broadcast_tensors(*heads)[0], batch, outs, out)


def _by_rows(
    labels: Labels, node: fx.Node, x: Value, xs: str, y: Value, ys: str, outs: str, out: Tensor
) -> Tensor:
    """No units along a batch axis: contracted ones leave together, those of rows or columns pass on."""
    summed = "".join(c for c in xs if c in ys and c not in outs)
    reason = f"contracted with a value that cannot shrink by {node.name}"
    sides = [_summed_units(labels, value, letters, summed, reason) for value, letters in ((x, xs), (y, ys))]
    if labels.widths and sides[0] is not None and sides[1] is not None and _vanish(node):
        _note_summed(labels, sides[0], sides[1], reason)
    else:
        _pin_summed(labels, node, (x, y), sides, summed, reason)
    rows = sides[0] is None and set(_letters(x, xs)) & set(outs)
    columns = sides[1] is None and set(_letters(y, ys)) & set(outs)
    if rows and columns:
        labels.pin(y.labels, f"crossed with other units by {node.name}")
    if rows:
        return _spread(x.labels, xs, outs, out)
    return _spread(y.labels, ys, outs, out) if columns else fixed(out.shape)


def _summed_units(labels: Labels, value: Value, letters: str, summed: str, reason: str) -> Tensor | None:
    """The units along the axes that are summed over; None where there are none."""
    if not set(_letters(value, letters)) & set(summed):
        return None
    return _spread(_alike_but_along(labels, value, letters, summed, reason), letters, summed, None)


def _vanish(node: fx.Node) -> bool:
    """Whether both factors of a product are 0 in the units that are 0 in the layers before."""
    known = dict[fx.Node, bool]()
    return all(vanishes(value, known) for value in node.all_input_nodes[:2])


def _note_summed(labels: Labels, a: Tensor, b: Tensor, reason: str) -> None:
    """Units that are summed over leave together: the weights that make the second side read the first."""
    a, b = (side.reshape(-1) for side in torch.broadcast_tensors(a, b))
    both = (a != FIXED) & (b != FIXED)
    labels.pin(a[~both], reason)
    labels.pin(b[~both], reason)
    labels.summed.append((a[both], b[both]))


def _pin_summed(
    labels: Labels,
    node: fx.Node,
    values: tuple[Value, Value],
    sides: Sequence[Tensor | None],
    summed: str,
    reason: str,
) -> None:
    """Units that are summed over stay: no weight could make up for a removed one."""
    for value, side in zip(values, sides, strict=True):
        if side is not None:
            why = f"summed over by {node.name}, where no weight could make up for a removed unit"
            labels.pin(value.labels, why)
    if any(side is not None for side in sides):
        a, b = (side if side is not None else fixed([1] * len(summed)) for side in sides)
        labels.equate(a, b, reason)


def _spread(source: Tensor, letters: str, wanted: str, like: Tensor | None) -> Tensor:
    """Labels over the axes `wanted`: other axes of `letters` are dropped; along new ones nothing changes."""
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
