"""What a model's inputs are: their legal range, how they are normalised, their shape.

Said on the command line, or in a small YAML file beside the model (`net.onnx` → `net.yaml`):

    input_bounds: [0, 1]          # of the images, before they are normalised
    mean: [0.485, 0.456, 0.406]   # one number, or one for each channel
    std: [0.229, 0.224, 0.225]
    example_shape: 3,224,224      # of one sample; a list of such lines for several inputs
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.errors import InputError
from secateur.graph.export import as_module
from secateur.settings import read_settings


class Inputs(BaseModel):
    """`input_bounds` are those of the images; a model that takes normalised ones has `mean` and `std`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_bounds: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    example_shape: tuple[str, ...] = ()

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _finite((value,) if isinstance(value, int | float) else value)

    @field_validator("input_bounds", mode="before")
    @classmethod
    def _ordered(cls, value: Any) -> Any:
        if isinstance(value, list | tuple) and len(_numbers(value)) == 2 and not value[0] < value[1]:
            raise ValueError(f"the lower bound {value[0]} must lie below the upper bound {value[1]}")
        return value

    @field_validator("example_shape", mode="before")
    @classmethod
    def _lines(cls, value: Any) -> Any:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and value and all(isinstance(n, int) for n in value):
            return (",".join(map(str, value)),)
        return value

    @field_validator("std")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not s > 0 for s in value):
            raise ValueError("standard deviations must be above 0")
        return value

    @property
    def normalisation(self) -> Normalisation:
        return Normalisation(self.mean, self.std)

    def box(self) -> Any:
        """The legal range of what the model itself takes: numbers, or tensors (channels, 1, 1) of them."""
        return self.normalisation.box(self.input_bounds)

    def taken(self, images: Tensor) -> Tensor:
        """Images as the model itself takes them."""
        return self.normalisation.taken(images)

    def around(self, model: nn.Module | ExportedProgram) -> nn.Module | ExportedProgram:
        """The model as a function of images, which it normalises first where it needs that."""
        return self.normalisation.around(model)


def _finite(values: Any) -> Any:
    """A list of finite numbers as it is; `ValueError` for one that holds others."""
    for value in _numbers(values) if isinstance(values, list | tuple) else ():
        if math.isinf(value):
            raise ValueError(f"{value!r} is no finite number")
    return values


def _numbers(values: Any) -> Any:
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"{value!r} is no finite number")
    return values


@dataclass(frozen=True)
class Normalisation:
    """(x − mean) / std, one number or one for each channel (axis 1); empty where a model takes images as they are."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.mean) != bool(self.std):
            given, missing, none = ("mean", "std", 1) if self.mean else ("std", "mean", 0)
            raise InputError(
                f"{given} is given without {missing}; images are normalised by both, (x - mean) / std. Give {missing} "
                f"too, {none} where training used none"
            )
        if len({len(self.mean), len(self.std)} - {0, 1}) > 1:
            raise InputError(f"mean has {len(self.mean)} values and std {len(self.std)}; give one for each channel")

    def __bool__(self) -> bool:
        return bool(self.mean or self.std)

    def box(self, bounds: Any, spatial: int = 2) -> Any:
        """`bounds`, a pair of ends (numbers, or tensors that broadcast to one input), as the model itself takes them.

        `spatial`: axes of an input after that of its channels. Raises `InputError` for bounds of several inputs.
        """
        if not self:
            return bounds
        if len(bounds) != 2 or any(isinstance(end, list | tuple) for end in bounds):
            raise InputError(
                "mean and std go with one pair of input_bounds; give bounds of what the model itself takes"
            )
        mean, std = self._of_channels(spatial)
        low, high = ((torch.as_tensor(end, dtype=torch.float64) - mean) / std for end in bounds)
        return low, high

    def taken(self, images: Tensor) -> Tensor:
        """Images (n, channels, …) as the model itself takes them."""
        if not self:
            return images
        mean, std = self._of_channels(images.ndim - 2)
        return ((images - mean) / std).to(images.dtype)

    def around(self, model: nn.Module | ExportedProgram, spatial: int = 2) -> nn.Module | ExportedProgram:
        """The model as a function of images, which it normalises first where it needs that."""
        return Normalised(as_module(model), *self._of_channels(spatial)) if self else model

    def _of_channels(self, spatial: int) -> tuple[Tensor, Tensor]:
        count = max(len(self.mean), len(self.std))
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        numbers = (torch.tensor(v, dtype=torch.float64).expand(count) for v in (mean, std))
        first, second = (v.reshape(-1, *[1] * spatial) if count > 1 else v[0] for v in numbers)
        return first, second


class Normalised(nn.Module):
    """`model` on (x − mean) / std."""

    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.model = model
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.register_buffer("mean", mean.to(dtype))
        self.register_buffer("std", std.to(dtype))
        self.training = False

    def normalise(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std  # type: ignore[operator]

    def forward(self, x: Tensor) -> Any:
        return self.model(self.normalise(x))


def beside(model: str | os.PathLike[str]) -> Path:
    """Where the settings of the model in a file stand."""
    return Path(model).with_suffix(".yaml")


def read_inputs(model: str | os.PathLike[str], **given: Any) -> Inputs:
    """Settings from the file beside the model, where there is one; those in `given` that are not None go before."""
    path = beside(model)
    found: Any = {}
    if ":" not in path.name and path.exists():
        found = read_settings(path)
    said = {name: value for name, value in given.items() if value is not None}
    where = f"{path}: " if found else ""
    try:
        return Inputs.model_validate({**found, **said})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{where}{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def numbers(text: str | None, option: str) -> Sequence[float] | None:
    """`0.5` or `0.485,0.456,0.406` from the command line."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option} {text}: give numbers with commas between them, e.g. 0.485,0.456,0.406") from None
