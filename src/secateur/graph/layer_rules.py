"""Coupling rules of layers with weights: norms, embeddings, convolutions and linear layers."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx

from secateur.graph.head_norms import are_of_heads, widths_normed
from secateur.graph.labels import FIXED, Labels, fixed, varying_axes
from secateur.graph.product_rules import contracted
from secateur.graph.values import Arguments, Value, frozen, unknown


def per_channel(
    labels: Labels, x: Value, parameters: Sequence[Value | None], node: fx.Node, groups: int | None = None
) -> Tensor:
    """Ops with one parameter for each channel of axis 1 (batch norm, PReLU) pass units through."""
    others = [axis for axis in range(x.data.ndim) if axis != 1]
    steady = labels.uniform(x.labels, others, f"normalised together by {node.name}")
    if not varying_axes(steady):
        return steady
    channels = steady.select(0, 0).reshape(steady.shape[1], -1)[:, 0]
    if groups is not None:
        by_group = channels.reshape(groups, -1)
        reason = f"normalised with a value that cannot shrink by {node.name}"
        labels.equate(by_group, by_group[:, :1], reason)
    for value in parameters:
        if value is None or value.data.numel() == 1:
            continue
        if value.tensor:
            labels.index(value.tensor, 0, channels, "through")
        else:
            labels.pin(channels, f"a parameter of {node.name} is computed in the graph")
    return steady


def batch_normed(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    parameters = [a[name] for name in ("weight", "bias", "running_mean", "running_var")]
    return per_channel(labels, a["input"], parameters, node)


def group_normed(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    """Whole norm groups leave together, so that the others keep their statistics."""
    return per_channel(labels, a["input"], [a["weight"], a["bias"]], node, groups=a["num_groups"])


def prelu(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Tensor:
    return per_channel(labels, a["self"], [a["weight"]], node)


def layer_normed(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """Every output of a layer norm depends on all units of the normalised axes.

    Heads of which each is normed by itself leave as a whole, or lose the same widths.
    """
    x, n = a["input"], len(a["normalized_shape"])
    normalised, reason = range(x.data.ndim - n, x.data.ndim), f"layer-normed by {node.name}"
    if not varying_axes(x.labels) & set(normalised):
        return x.labels
    if n == 1 and widths_normed(labels, node, x.labels):
        return _normed_along(labels, node, a, f"normed by {node.name}")
    if are_of_heads(labels, x.labels, n):
        return labels.uniform(x.labels, normalised, reason)
    parameters = [a["weight"], *([a["bias"]] if a.get("bias") is not None else [])]
    stored = all(isinstance(value, Value) and value.tensor for value in parameters)
    if node.name in labels.streams and n == 1 and stored:
        return _normed_along(labels, node, a, f"differs along other axes than {node.name} normalises")
    labels.pin(x.labels, reason)
    return x.labels


def _normed_along(labels: Labels, node: fx.Node, a: Arguments, reason: str) -> Tensor:
    """A norm over the width of each head, or over a stream, passes the units along the last axis through.

    Its statistics are made up for (`surgery.rewrite`); its parameters are one for all heads and positions.
    """
    steady = labels.uniform(a["input"].labels, range(a["input"].data.ndim - 1), reason)
    along = steady.reshape(-1, steady.shape[-1])[0]
    for value in (a["weight"], a.get("bias")):
        if isinstance(value, Value) and value.tensor:
            labels.index(value.tensor, 0, along, "through")
        elif value is not None:
            labels.pin(along, f"a parameter of {node.name} is computed in the graph")
    return steady


def _computed(node: fx.Node, *parameters: Any) -> str:
    """Why a layer with a computed parameter (weight norm, parametrisation) stays whole; else empty."""
    if not any(isinstance(value, Value) and not value.tensor for value in parameters):
        return ""
    how = "by a weight norm, a mask or a parametrisation"
    return node.meta.get("computed") or f"the weight of {node.name} is computed in the graph, {how}"


def embedded(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    weight = a["weight"]
    if not weight.tensor:
        return unknown(labels, node, a, out)
    rows, width = weight.data.shape
    labels.index(weight.tensor, weight.axes[0], fixed([rows]), "consumer")  # the vocabulary stays whole
    return labels.index(weight.tensor, weight.axes[1], labels.fresh(width), "producer").expand(out.shape)


def convolved(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    """Convolution and its transpose: input channels are read, output channels are made.

    Depthwise: channel c of the input is made into its own outputs, so they leave together. Grouped: the units
    at the same offset of every group leave together, so that the groups stay equal (weights keep their block
    shape).
    """
    x, weight, bias, groups = a["input"], a["weight"], a["bias"], a["groups"]
    transposed = "transpose" in str(node.target)
    if computed := _computed(node, weight, bias):
        return frozen(labels, a, out, computed)
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


def linear(labels: Labels, node: fx.Node, a: Arguments, out: Tensor) -> Any:
    x, weight, bias = a["input"], a["weight"], a["bias"]
    if computed := _computed(node, weight, bias):
        return frozen(labels, a, out, computed)
    lead = string.ascii_lowercase[: x.data.ndim - 1]
    made = contracted(labels, node, x, lead + "I", weight, "OI", lead + "O", out)
    outputs = labels.axes.get((weight.tensor, weight.axes[0]))
    if isinstance(bias, Value) and outputs is not None:
        labels.index(bias.tensor, 0, outputs, "producer")
    return made
