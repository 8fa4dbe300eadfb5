"""The table of times of one network: layers at some widths, and whole networks that weigh the parts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import nn
from torch.export import ExportedProgram

from secateur.channels import BLOCK, block_units, kept_counts
from secateur.evaluate.cost import turns_of
from secateur.formats.format import Runtime
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.progress import logger
from secateur.report.times import LayerTimes, TimeTable
from secateur.run import Run
from secateur.surgery import shrink
from secateur.timing.clock import Clock
from secateur.timing.one_layer import Pass, empty_pass, layer_pass
from secateur.timing.parts import Axis, Layer, Parts, Shape, parts_of
from secateur.timing.predict import Predictor, fitted, rising, sums, weighed
from secateur.types import Group, Removal

_FRACTIONS = (1.0, 0.75, 0.5, 0.25, 0.125)  # of the widths that are measured
_FEWER = (1.0, 0.5, 0.125)  # for layers that take long
_ANCHORS = (0.5, 0.125)  # shares of all groups that stay in the whole networks
_REPEATS, _SECONDS = 30, 10.0  # of each width; for all layers together, as far as `_FEWER` widths allow
_MOST_NUMBERS = 2**26  # of weights that are held at a time
_CPU = torch.device("cpu")

_Key = tuple[Runtime, int | None, Shape, tuple[int, ...], tuple[int, ...]]
_known: dict[_Key, tuple[tuple[float, ...], ...]] = {}  # measured in this process


def measured_times(
    model: nn.Module | ExportedProgram,
    graph: Graph,
    coupling: Coupling,
    groups: Sequence[Group],
    clock: Clock,
) -> Predictor:
    """Measure a network, so that its latency after a removal from `groups` can be predicted.

    Cost: about ten seconds for the layers (equal ones once, and none twice in a process), and two smaller
    networks that are built and timed beside the original.
    """
    parts = parts_of(graph, coupling)
    rows = _rows(parts, clock)
    blocks = block_units(graph, coupling)
    removals = [
        {g.name: g.units - _kept(g.units, blocks[g.name], share) for g in groups} for share in _ANCHORS
    ]
    networks = [network_after(model, graph, coupling, removed) for removed in removals]
    times = clock.whole_and(networks)
    found = [sums(parts, rows, removed) for removed in ({}, *removals)]
    weights = fitted(list(zip(found, times, strict=True)))
    table = TimeTable(
        runtime=clock.runtime,
        threads=clock.threads,
        batch=clock.batch,
        rows=rows,
        weights=weights,
        corrections=((weighed(found[0], weights), times[0]),),
    )
    predictor = Predictor(parts, table)
    logger.info(
        "times of whole networks in %s: %s ms, predicted %s ms",
        clock.runtime,
        [f"{ms:.3g}" for ms in times],
        [f"{predictor(removed):.3g}" for removed in ({}, *removals)],
    )
    return predictor


def network_after(
    model: nn.Module | ExportedProgram, graph: Graph, coupling: Coupling, removed: Mapping[str, int]
) -> nn.Module:
    """A network of the size after a removal, for its time alone: the first units of each group go."""
    run = Run(graph, coupling)
    for group in coupling.prunable:
        if count := removed.get(group.name, 0):
            units = torch.arange(count)
            run.apply(group, Removal(group.name, units, torch.full_like(units, -1)))
    return shrink(model, graph, coupling, run.weights, run.alive)


def _kept(units: int, block: int, share: float) -> int:
    return min(kept_counts(units, block), key=lambda count: abs(count - share * units))


def _rows(parts: Parts, clock: Clock) -> tuple[LayerTimes, ...]:
    """Each shape of layer once, with the layers that have it."""
    alike: dict[tuple[Shape, bool, bool], list[Layer]] = {}
    for layer in parts.layers:
        key = layer.shape, bool(layer.inputs.per_unit), bool(layer.outputs.per_unit)
        alike.setdefault(key, []).append(layer)
    seconds = _SECONDS / max(1, len(alike))
    return tuple(_row(layers, clock, seconds) for layers in alike.values())


def _row(layers: Sequence[Layer], clock: Clock, seconds: float) -> LayerTimes:
    layer = layers[0]
    with clock.with_threads():
        whole = layer_pass(clock.runtime, layer.shape, layer.inputs.whole, layer.outputs.whole)
        took = statistics.median(turns_of([whole], _CPU, repeats=3, warm_up=1, limit_s=seconds)[0])
        long = took * len(_FRACTIONS) ** 2 > seconds / 4
        inputs, outputs = _widths(layer, _FEWER if long else _FRACTIONS)
        key = clock.runtime, clock.threads, layer.shape, inputs, outputs
        if key not in _known:
            _known[key] = _measured(layer, inputs, outputs, clock.runtime, seconds)
    return LayerTimes(
        layers=tuple(dict.fromkeys(other.name for other in layers)),
        op=layer.shape.op,
        inputs=inputs,
        outputs=outputs,
        ms=_known[key],
    )


def _measured(
    layer: Layer, inputs: Sequence[int], outputs: Sequence[int], runtime: Runtime, seconds: float
) -> tuple[tuple[float, ...], ...]:
    """Medians, less that of an empty call; shape: (inputs, outputs).

    All widths take turns, but for layers whose weights would fill the memory: these are timed one by one.
    """
    make: list[Callable[[], Pass]] = [partial(empty_pass, runtime)]
    for width in inputs:
        ends = outputs if len(outputs) > 1 else [_beside(layer, width)]
        make += [partial(layer_pass, runtime, layer.shape, width, end) for end in ends]
    together = len(make) if math.prod(layer.shape.weight) * len(make) <= _MOST_NUMBERS else 1
    turns = list[list[float]]()
    for start in range(0, len(make), together):
        passes, limit = [one() for one in make[start : start + together]], seconds * together / len(make)
        turns += turns_of(passes, _CPU, repeats=_REPEATS, warm_up=1, limit_s=limit)
    call, *found = (1000 * statistics.median(times) for times in turns)
    count = len(outputs)
    return rising([[max(0.0, ms - call) for ms in found[i : i + count]] for i in range(0, len(found), count)])


def _beside(layer: Layer, inputs: int) -> int:
    """The outputs of a layer with one column of times: in proportion where it is grouped, else all."""
    whole = layer.outputs.whole
    return whole * inputs // layer.inputs.whole if layer.shape.groups > 1 else whole


def _widths(layer: Layer, fractions: Sequence[float]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ascending numbers of input and output channels at which a layer is measured."""
    shape, groups = layer.shape, layer.shape.groups
    if groups > 1 and groups != shape.x[1]:  # of each group, as many channels of each
        share = [max(1, round(f * shape.x[1] / groups)) * groups for f in fractions]
        legal = [n for n in share if layer.outputs.whole * n % (layer.inputs.whole * groups) == 0]
        return tuple(sorted({*legal, layer.inputs.whole})), (layer.outputs.whole,)
    block = BLOCK if shape.op == "conv2d" else 1
    inputs = _rounded(layer.inputs, block, fractions)
    return inputs, (layer.outputs.whole,) if groups > 1 else _rounded(layer.outputs, block, fractions)


def _rounded(axis: Axis, block: int, fractions: Sequence[float]) -> tuple[int, ...]:
    """Where units of the axis may leave, fractions of its width, as `round_to="auto"` rounds them."""
    if not axis.per_unit:
        return (axis.whole,)
    return tuple(sorted({_kept(axis.whole, block, fraction) for fraction in fractions}))
