"""Units that have one value over the whole box: what they add goes into the biases of what reads them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from secateur.bounds.affine import linear_part
from secateur.bounds.op import Op
from secateur.graph.node import bound_arguments, kind
from secateur.graph.ops import AFFINE
from secateur.methods.exact.finding import Finding, plain
from secateur.methods.exact.problem import ExactProblem, each_unit, input_of, readers, remaining, unit_of
from secateur.reconstruct.layers import Consumer
from secateur.types import Group

_SPREAD = 1e-11  # relative: what outward rounding makes of a constant, and sums of constants of each other
_TINY = 1e-300
_BLOCK = 2**24  # numbers in one block of inputs


def constant(problem: ExactProblem, group: Group) -> Finding | None:
    """Units that are constant at every layer that reads them, where these layers can take up the constant.

    Dead units (0 after the activation) go always. Another constant c adds W[:, a]·c to a layer's output: the
    layer needs a bias of its own, or a batch norm behind it whose mean can move, and has to add the same at
    all positions (a convolution with zero padding does not). Cost: one pass of each reading layer for each
    such unit.
    """
    consumers = readers(problem, group)
    spreads, middles = list[Tensor](), list[Tensor]()
    for consumer in consumers:
        units = unit_of(problem, input_of(consumer), group)
        if units is None:
            return None
        value = problem.values[input_of(consumer)]
        middle = torch.where(units >= 0, value.lower / 2 + value.upper / 2, 0.0)
        width = value.upper - value.lower - _SPREAD * middle.abs()
        spreads.append(each_unit(units, width, group.units))
        middles.append(middle)
    if not consumers:
        return None
    still = torch.stack(spreads).amax(0) <= _TINY
    found = remaining(problem, group)
    found = found[still[found]]
    fits, shifts = absorbed(problem, group, consumers, middles, found)
    found = found[fits]
    return plain(found, {name: shift[fits] for name, shift in shifts.items()}) if len(found) else None


def absorbed(
    problem: ExactProblem,
    group: Group,
    consumers: Sequence[Consumer],
    values: Sequence[Tensor],
    units: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Whether every consumer can make up for constant `units`, and the shifts of its bias or its norm's mean.

    values: the input of each consumer, shape (1, …) each. Returns a mask, shape (units,), and
    name → shift, shape (units, O).
    """
    fits, shifts = torch.ones(len(units), dtype=torch.bool), dict[str, Tensor]()
    for consumer, value in zip(consumers, values, strict=True):
        added, steady = response(problem, group, consumer, value, units)
        silent = added.abs().amax(1) <= _TINY
        open_to_it = consumer.shift is not None and len(problem.consumers[consumer.weight]) == 1
        fits &= steady & (silent | open_to_it)
        if consumer.shift is not None:
            name, sign = consumer.shift
            shifts[name] = sign * torch.where(silent[:, None], 0.0, added)
    return fits, shifts


def response(
    problem: ExactProblem, group: Group, consumer: Consumer, value: Tensor, units: Tensor
) -> tuple[Tensor, Tensor]:
    """What a consumer's output has from each unit alone, and whether it is the same at all positions.

    Shapes: (units, O), (units,). In blocks of units, those at which `value` is not 0 alone.
    """
    form, node = AFFINE[kind(consumer.node)], consumer.node
    weight = problem.weights[consumer.weight]
    op = Op(node, bound_arguments(node, node.args, node.kwargs), weight)
    owner = unit_of(problem, input_of(consumer), group)
    assert owner is not None, "asked for before"
    added = torch.zeros(len(units), weight.shape[form.weight_axis], dtype=weight.dtype)
    steady = torch.ones(len(units), dtype=torch.bool)
    present = (each_unit(owner, value.abs(), group.units)[units] > _TINY).nonzero().flatten()
    for part in present.split(max(1, _BLOCK // owner.numel())) if len(present) else ():
        mine = units[part].reshape(-1, *[1] * (owner.ndim - 1)) == owner
        out = linear_part(op, torch.where(mine, value, 0.0), weight)
        out = out.movedim(form.output_axis, 1).reshape(len(part), added.shape[1], -1)
        added[part] = out.mean(2)
        steady[part] = (out.amax(2) - out.amin(2)).amax(1) <= _SPREAD * out.abs().amax((1, 2)) + _TINY
    return added, steady
