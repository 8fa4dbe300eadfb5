"""All rows of the importer: ONNX op → torch call, and the inputs of each that are settings.

Ops of other domains than ONNX's own go by their full name, such as `com.microsoft.Gelu`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import secateur.formats.onnx.elementwise as elementwise
import secateur.formats.onnx.indexing as indexing
import secateur.formats.onnx.microsoft as microsoft
import secateur.formats.onnx.ops as ops
import secateur.formats.onnx.recurrent as recurrent
import secateur.formats.onnx.reductions as reductions
import secateur.formats.onnx.rotary as rotary

OPS: dict[str, Callable[..., Any]] = (
    ops.OPS | elementwise.OPS | reductions.OPS | indexing.OPS | recurrent.OPS | rotary.OPS | microsoft.OPS
)

# Inputs that are settings, not data: read as numbers.
SETTINGS: dict[str, set[int]] = (
    ops.SETTINGS | reductions.SETTINGS | indexing.SETTINGS | recurrent.SETTINGS | microsoft.SETTINGS
)
