"""All rows of the importer: ONNX op → torch call, and the inputs of each that are settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from secateur.formats.onnx import ops, recurrent

OPS: dict[str, Callable[..., Any]] = ops.OPS | recurrent.OPS

# Inputs that are settings, not data: read as numbers.
SETTINGS: dict[str, set[int]] = ops.SETTINGS | recurrent.SETTINGS
