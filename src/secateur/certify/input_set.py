"""What a certificate is about: the whole input box, or balls round inputs, checked and as float64."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from secateur import arguments as may
from secateur.bounds.box import input_box, warn_without_width
from secateur.bounds.certified import ball
from secateur.data import as_tensors, check_within
from secateur.data.plain import is_array, tensor_of
from secateur.decisions import HEADS
from secateur.errors import InputError
from secateur.graph.example import ExampleInputs
from secateur.graph.graph import Graph
from secateur.presets import PRESETS
from secateur.types import Interval


def as_inputs(value: Any) -> Any:
    """Inputs as `as_tensors` takes them; a list with one array for each input becomes a tuple."""
    found = tuple(value) if isinstance(value, list) and not is_array(value) else value
    if not isinstance(found, str | Iterable) and not hasattr(found, "__fspath__") and not is_array(found):
        raise ValueError
    if isinstance(found, tuple) and not (found and all(map(is_array, found))):
        raise ValueError
    return found


RULES = {  # of the arguments that say what a certificate is about
    "original": may.MODEL,
    "pruned": may.MODEL,
    "input_bounds": may.BOUNDS,
    "mean": may.MEAN,
    "std": may.STD,
    "normalize": may.optional(may.one_of(*PRESETS)),
    "inputs": may.optional(
        may.Rule("a tensor, an array, a list with one for each input, batches, or a path", as_inputs)
    ),
    "eps": may.optional(may.number("a radius of at least 0, in input units", low=0)),
    "indices": may.optional(
        may.list_of(may.whole(0, ""), "a list of whole numbers from 0, one for each input")
    ),
    "head": may.one_of(*HEADS),
}


def example_of(inputs: Any) -> ExampleInputs:
    """The first two of the inputs, where these are at hand as arrays."""
    if is_array(inputs):
        return tensor_of(inputs)[:2]
    if isinstance(inputs, tuple) and all(map(is_array, inputs)):
        return tuple(tensor_of(x)[:2] for x in inputs)
    raise InputError(
        "inputs in batches, by name or from a path do not tell the model's arguments; give example_inputs"
    )


def bounds_of_each(bounds: Any, inputs: int) -> Any:
    """In one form: one pair for the only input, or a list with a pair for each of several."""
    single = not isinstance(bounds[0], list | tuple)
    if inputs == 1:
        return bounds if single else bounds[0]
    return [bounds] * inputs if single else list(bounds)


def points_of(graph: Graph, input_bounds: Any, inputs: Any) -> list[Tensor]:
    """The centres of the balls, one tensor (n, …) for each input, inside of the box."""
    points = as_tensors(inputs, graph, input_bounds, name="inputs")
    if any(len(x) != len(points[0]) for x in points):
        raise InputError(f"inputs: give as many samples for each of the model's {len(graph.inputs)} inputs")
    found = []
    for node, x, box in zip(graph.inputs, points, input_box(graph, input_bounds), strict=True):
        if x.shape[1:] != box.lower.shape[1:]:
            raise InputError(
                f"inputs of shape {tuple(x.shape)}: {node.name} takes {tuple(box.lower.shape[1:])} each"
            )
        if x.is_floating_point():
            if not bool(torch.isfinite(x).all()):
                raise InputError(f"inputs: the input {node.name} holds NaN or infinite values")
            check_within(x, (box.lower, box.upper), f"inputs: the values for {node.name}")
            x = x.double().clamp(box.lower, box.upper)  # rounding may have led outside
        found.append(x)
    return found


def boxes_of(graph: Graph, input_bounds: Any, points: Sequence[Tensor], eps: float | None) -> list[Interval]:
    """The balls round the points, cut by the box, (N, …) for each input; without `eps`, the whole box."""
    whole = input_box(graph, input_bounds)
    warn_without_width(graph, whole)
    if eps is None:
        return list(whole)
    return [ball(centre, eps, box) for centre, box in zip(points, whole, strict=True)]
