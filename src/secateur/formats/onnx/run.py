"""Run an ONNX protobuf in onnxruntime on many samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.formats.onnx.check import inference_session
from secateur.formats.onnx.read import inputs_of
from secateur.graph.export import first_line

Proto = Any  # onnx.ModelProto, which carries no useful types
Feed = dict[str, np.ndarray[Any, Any]]
_BATCH = 64


def feeds(proto: Proto, inputs: Sequence[Tensor]) -> Iterator[tuple[Feed, int]]:
    """Inputs (n, …) in batches, and how many samples of each count.

    Where the model fixes its batch size, the last batch is filled with copies of its last sample.
    """
    values = inputs_of(proto)
    fixed = next((n for value in values if (n := _fixed_batch(value))), None)
    step = fixed or _BATCH
    for start in range(0, len(inputs[0]), step):
        parts = [x[start : start + step] for x in inputs]
        count = len(parts[0])
        if fixed and count < fixed:
            parts = [torch.cat([x, x[-1:].expand(fixed - count, *x.shape[1:])]) for x in parts]
        yield {v.name: x.cpu().contiguous().numpy() for v, x in zip(values, parts, strict=True)}, count


def _fixed_batch(value: Proto) -> int:
    dims = value.type.tensor_type.shape.dim
    return int(dims[0].dim_value) if dims else 0


def outputs_of(proto: Proto, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Every output for all samples, axis 0 the batch.

    Raises:
        InputError: onnxruntime refuses the model, or an output has no row for each sample.
    """
    return session_outputs(inference_session(proto), proto, inputs)


def session_outputs(session: Any, proto: Proto, inputs: Sequence[Tensor]) -> list[Tensor]:
    """`outputs_of`, in a session that there is."""
    names = [value.name for value in session.get_outputs()]
    parts = [list[Tensor]() for _ in names]
    for feed, count in feeds(proto, inputs):
        try:
            found = session.run(None, feed)
        except Exception as error:  # onnxruntime has several families of its own
            raise InputError(f"onnxruntime cannot run the model: {first_line(error)}") from error
        size = len(next(iter(feed.values())))
        for name, value, part in zip(names, found, parts, strict=True):
            if not value.ndim or len(value) != size:
                raise InputError(
                    f"the output {name!r} has shape {value.shape} for {size} inputs; models are compared "
                    "sample by sample, so that axis 0 of every output must be the batch"
                )
            part.append(torch.from_numpy(np.array(value[:count])))
    return [torch.cat(part) for part in parts]
