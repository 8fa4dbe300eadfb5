"""The table of schemes: how a float model becomes a quantised one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from secateur.errors import InputError
from secateur.quantize.halves import BFLOAT16, FLOAT16, all_nodes, float16, reading_weights, weights_in_half
from secateur.quantize.integers import Ranges, int8, int8_nodes
from secateur.quantize.prepare import named, optimised, products
from secateur.quantize.weights import matrix_nodes, weights_in_bits

Proto = Any


@dataclass(frozen=True)
class Scheme:
    """One way to quantise; a row of `SCHEMES`.

    Attributes:
        what: What becomes of the model, for people.
        prepare: The float model as `apply` takes it; a copy.
        nodes: Names of the nodes of the prepared model that the scheme can quantise.
        apply: Prepared model, names of nodes that stay in float, ranges of values → quantised model. With all
            nodes in float it is the float model.
        calibrated: Whether `apply` needs the ranges.
    """

    what: str
    prepare: Callable[[Proto], Proto]
    nodes: Callable[[Proto], list[str]]
    apply: Callable[[Proto, Collection[str], Ranges], Proto]
    calibrated: bool = False


SCHEMES: dict[str, Scheme] = {
    "int8": Scheme("weights and values in 8 bits", optimised, int8_nodes, int8, calibrated=True),
    "fp16": Scheme("weights and values in float16", named, all_nodes, float16),
    "fp16-weights": Scheme(
        "weights in float16, computed in float32",
        named,
        reading_weights,
        lambda proto, kept, _: weights_in_half(proto, kept, FLOAT16),
    ),
    "bf16-weights": Scheme(
        "weights in bfloat16, computed in float32",
        named,
        reading_weights,
        lambda proto, kept, _: weights_in_half(proto, kept, BFLOAT16),
    ),
    "int8-weights": Scheme(
        "weights of matrix products in 8 bits",
        products,
        matrix_nodes,
        lambda proto, kept, _: weights_in_bits(proto, kept, 8),
    ),
    "int4-weights": Scheme(
        "weights of matrix products in 4 bits",
        products,
        matrix_nodes,
        lambda proto, kept, _: weights_in_bits(proto, kept, 4),
    ),
}

# Name → why there is no such scheme, and what to take.
REFUSED = {
    "bf16": "onnxruntime has no bfloat16 convolutions and products on CPUs; take bf16-weights (stored in "
    "bfloat16, computed in float32) or fp16",
    "int4": "values in 4 bits are not supported; take int4-weights, which stores the weights of matrix "
    "products in 4 bits",
}


def scheme_named(name: object) -> Scheme:
    """Raises `InputError` for a name that is not in the table."""
    if isinstance(name, str) and name in SCHEMES:
        return SCHEMES[name]
    why = REFUSED.get(name, "") if isinstance(name, str) else ""
    raise InputError(f"scheme={name!r}: {why or 'there are ' + ', '.join(SCHEMES)}")
