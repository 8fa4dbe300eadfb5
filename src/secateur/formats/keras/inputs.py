"""What a model takes: shapes and types of its inputs, examples of them, and masks that nothing may read."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.budget import check_input
from secateur.errors import InputError, UnsupportedOpError
from secateur.formats.keras.layer import Layer
from secateur.formats.keras.network import USE_MASKS, Network
from secateur.formats.keras.spec import LARGEST, Spec

_READ_MASKS = ("LSTM", "GRU", "SimpleRNN", "Bidirectional", "Softmax", *USE_MASKS)
_DTYPES: dict[str, torch.dtype] = {
    **{name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64", "bool", "uint8")},
    **{name: getattr(torch, name) for name in ("int8", "int16", "int32", "int64")},
}


def input_of(spec: Spec) -> tuple[str, tuple[int | None, ...], torch.dtype]:
    """The name, the shape with its batch axis, and the type of an input."""
    shape = spec.get("batch_shape") or spec.get("batch_input_shape")
    if not isinstance(shape, list) or not shape:
        spec.refuse("has no shape")
    if not all(n is None or (type(n) is int and 0 < n <= LARGEST) for n in shape):
        spec.refuse(f"has the shape {str(shape)[:60]}, which is none")
    if spec.flag("sparse") or spec.flag("ragged") or spec.flag("optional"):
        spec.unsupported("is sparse, ragged or optional, which has no rule")
    return spec.name, tuple(shape), _dtype_of(spec)


def _dtype_of(spec: Spec) -> torch.dtype:
    """The type of an input; of a policy that of its variables, which are float32 where it is mixed."""
    told = spec.get("dtype") or "float32"
    if isinstance(told, dict):
        config = told.get("config")
        told = config.get("name") if isinstance(config, dict) else None
    name = "float32" if str(told).startswith("mixed_") else str(told)
    if name not in _DTYPES:
        spec.unsupported(f"has values of type {name[:40]}; there are {', '.join(_DTYPES)}")
    return _DTYPES[name]


def examples(network: Network) -> tuple[Tensor, ...]:
    """Two samples of zeros for each input, of ones where zeros are masked.

    Raises `InputError` where an axis has no size.
    """
    found, value = (
        [],
        int(any(_is_masked(part.spec) for part in network.modules() if isinstance(part, Layer))),
    )
    for name, shape, dtype in map(input_of, network.input_specs()):
        if None in shape[1:]:
            open_axes = ",".join("?" if n is None else str(n) for n in shape[1:])
            raise InputError(
                f"the input {name!r} leaves axes open ({open_axes}); say one size: --example-shape, or "
                "example_inputs"
            )
        sizes = tuple(n for n in shape[1:] if n is not None)
        check_input(f"the input {name!r}", (2, *sizes), dtype)
        found.append(torch.full((2, *sizes), value, dtype=dtype))
    return tuple(found)


def _is_masked(spec: Spec) -> bool:
    return spec.kind == "Embedding" and spec.flag("mask_zero")


def check_masks(network: Network) -> None:
    """Refuse masks of embeddings that later layers would read, where calls do not tell who reads which."""
    models = [part for part in network.modules() if isinstance(part, Network)]
    if not any(part.spec.keras_2 or part.spec.kind == "Sequential" for part in models):
        return
    specs = [part.spec for part in network.modules() if isinstance(part, Layer | Network)]
    masked = [s for s in specs if _is_masked(s)]
    readers = [s for s in specs if s.kind in _READ_MASKS or "Attention" in s.kind]
    if masked and readers:
        raise UnsupportedOpError(
            f"{masked[0]} has mask_zero=True, and {readers[0]} reads its mask, which has no rule; build the "
            "model with mask_zero=False"
        )
