"""What a model's inputs are: their legal range, how they are normalised, their shape.

Said on the command line, or in a small YAML file beside the model (`net.onnx` → `net.yaml`):

    input_bounds: [0, 1]          # of the images, before they are normalised
    mean: [0.485, 0.456, 0.406]   # one number, or one for each channel
    std: [0.229, 0.224, 0.225]
    example_shape: 3,224,224      # of one sample; a list of such lines for several inputs

In place of mean and std, `normalize` names a row of `secateur.presets`: `imagenet`, `cifar10`, `minus1to1`,
or `none` where the model takes images as they are. Without a settings file, a `preprocessor_config.json`
beside the model is read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur import preprocessor
from secateur.data.pixels import colours_last
from secateur.errors import InputError
from secateur.graph.export import as_module
from secateur.presets import PRESETS, Preset
from secateur.settings import read_settings


class InputSpec(BaseModel):
    """What a model takes: the legal range of images, how they are normalised, and their shape.

    `input_bounds` are those of the images; a model that takes normalised images has `mean` and `std`.

    `normalize` is a name in `secateur.presets.PRESETS`, in units of the bounds; `mean` and `std` are then its
    own.

    Examples:
        >>> import secateur
        >>> secateur.InputSpec(normalize="minus1to1", input_bounds=(0, 255)).mean
        (127.5,)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    input_bounds: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    normalize: str | None = None
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

    @model_validator(mode="after")
    def _named(self) -> InputSpec:
        if self.normalize is not None:
            found = Normalisation.named(self.normalize, self.input_bounds, self.mean, self.std)
            object.__setattr__(self, "mean", found.mean)  # of a frozen object that is not handed out yet
            object.__setattr__(self, "std", found.std)
        return self

    @property
    def declared(self) -> bool:
        """Whether it was said how images are normalised, if only that they are not."""
        return bool(self.mean or self.std or self.normalize)

    @property
    def normalisation(self) -> Normalisation:
        return Normalisation(self.mean, self.std)

    def box(self) -> Any:
        """The legal range of what the model itself takes: numbers, or tensors (channels, 1, 1) of them."""
        return self.normalisation.box(self.input_bounds)

    def normalised(self, images: Tensor) -> Tensor:
        """Images as the model itself takes them."""
        return self.normalisation.normalised(images)

    def wrapped(self, model: nn.Module | ExportedProgram) -> nn.Module | ExportedProgram:
        """The model as a function of images, which it normalises first where it needs that."""
        return self.normalisation.wrapped(model)


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
    """(x − mean) / std, one number or one for each channel; empty where images are not normalised."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.mean) != bool(self.std):
            given, missing, none = ("mean", "std", 1) if self.mean else ("std", "mean", 0)
            raise InputError(
                f"{given} is given without {missing}; images are normalised by both, (x - mean) / std. Give "
                f"{missing} too, {none} where training used none"
            )
        if len({len(self.mean), len(self.std)} - {0, 1}) > 1:
            raise InputError(
                f"mean has {len(self.mean)} values and std {len(self.std)}; give one for each channel"
            )

    def __bool__(self) -> bool:
        return bool(self.mean or self.std)

    @staticmethod
    def named(
        name: str | None, bounds: Any, mean: Sequence[float] = (), std: Sequence[float] = ()
    ) -> Normalisation:
        """`mean` and `std`, or the preset of that name, in units of `bounds`, a pair of numbers."""
        if name is None:
            return Normalisation(tuple(mean), tuple(std))
        if name not in PRESETS:
            raise InputError(f"normalize={name!r}: there are {', '.join(PRESETS)}; or give mean and std")
        preset = PRESETS[name]
        if (mean or std) and (tuple(mean), tuple(std)) != _spread(preset, bounds):
            raise InputError(
                f"normalize={name!r} stands for a mean and std of its own; give one or the other"
            )
        return Normalisation(*_spread(preset, bounds))

    def box(self, bounds: Any, shape: Sequence[int] = (1, 1, 1)) -> Any:
        """`bounds` as the model itself takes them: a pair of numbers or of tensors.

        `shape`: that of one sample, (channels, …), or (height, width, colours). Raises `InputError` for
        bounds of several inputs.
        """
        if not self:
            return bounds
        if len(bounds) != 2 or any(isinstance(end, list | tuple) for end in bounds):
            raise InputError(
                "mean and std go with one pair of input_bounds; give bounds of what the model itself takes"
            )
        mean, std = self._of_channels(shape)
        low, high = ((torch.as_tensor(end, dtype=torch.float64) - mean) / std for end in bounds)
        return low, high

    def normalised(self, images: Tensor) -> Tensor:
        """Images (n, channels, …), or (n, height, width, colours), as the model itself takes them."""
        if not self:
            return images
        mean, std = self._of_channels(images.shape[1:])
        return ((images - mean) / std).to(images.dtype)

    def denormalised(self, inputs: Tensor) -> Tensor:
        """The images that the model's `inputs` were made of, in the same layout."""
        if not self:
            return inputs
        mean, std = self._of_channels(inputs.shape[1:])
        return (inputs * std.to(inputs.device) + mean.to(inputs.device)).to(inputs.dtype)

    def check(self, channels: int) -> None:
        """Raise `InputError` where there are several numbers, but not one for each of so many channels."""
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if len(numbers) not in (0, 1, channels):
                raise InputError(
                    f"{name} has {len(numbers)} numbers, but the model's input has {channels} channels"
                )

    def wrapped(self, model: nn.Module | ExportedProgram, spatial: int = 2) -> nn.Module | ExportedProgram:
        """The model as a function of images, which it normalises first where it needs that."""
        return Normalised(as_module(model), *self._of_channels([1] * (spatial + 1))) if self else model

    def _of_channels(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Mean and deviation, to broadcast over a sample of this shape; float64."""
        count = max(len(self.mean), len(self.std))
        mean, std = self.mean or (0.0,), self.std or (1.0,)
        numbers = (torch.tensor(v, dtype=torch.float64).expand(count) for v in (mean, std))
        axes = (-1,) if colours_last(shape) else (-1, *[1] * (len(shape) - 1))
        first, second = (v.reshape(axes) if count > 1 else v[0] for v in numbers)
        return first, second


def _spread(preset: Preset, bounds: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of images in `bounds`, a pair of numbers, in place of the preset's own bounds."""
    if not preset.mean:
        return (), ()
    if len(bounds) != 2 or not all(isinstance(end, int | float) for end in bounds):
        raise InputError("normalize goes with one pair of numbers for input_bounds; give mean and std")
    if tuple(bounds) == preset.bounds:
        return preset.mean, preset.std
    low, width = float(bounds[0]), float(bounds[1]) - float(bounds[0])
    return tuple(low + width * m for m in preset.mean), tuple(width * s for s in preset.std)


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
        mean: Tensor = self.mean  # type: ignore[assignment]
        std: Tensor = self.std  # type: ignore[assignment]
        if mean.ndim and colours_last(x.shape[1:]):
            mean, std = mean.flatten(), std.flatten()
        return (x - mean) / std

    def forward(self, x: Tensor) -> Any:
        return self.model(self.normalise(x))

    @property
    def normalisation(self) -> Normalisation:
        """Its numbers as they are kept, rounded to the model's dtype."""
        mean, std = (tuple(x.double().flatten().tolist()) for x in (self.mean, self.std))  # type: ignore[operator]
        return Normalisation(mean, std)


def settings_path(model: str | os.PathLike[str]) -> Path:
    """Where the settings of the model in a file, or a folder, stand: beside it."""
    path = Path(model)
    return path.with_name(f"{path.name}.yaml") if path.is_dir() else path.with_suffix(".yaml")


def read_inputs(model: str | os.PathLike[str], **given: Any) -> InputSpec:
    """Settings from the file beside the model; arguments that are not None take precedence."""
    path, found = _settings_of(model)
    said = {name: value for name, value in given.items() if value is not None}
    if "normalize" in said:
        found = {name: value for name, value in found.items() if name not in ("mean", "std")}
    elif "mean" in said or "std" in said:
        found = {name: value for name, value in found.items() if name != "normalize"}
    where = f"{path}: " if found else ""
    try:
        return InputSpec.model_validate({**found, **said})
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
        raise InputError(f"{where}{name}{first['msg'].removeprefix('Value error, ')}") from error


def _settings_of(model: str | os.PathLike[str]) -> tuple[Path, dict[str, Any]]:
    """The settings beside the model, and from which file; without such a file, those of a preprocessor."""
    if Path(model).name in ("", "..") or ":" in Path(model).name:  # a folder, or a factory
        return Path(model), {}
    path = settings_path(model)
    if path.exists():
        return path, read_settings(path)
    other = preprocessor.preprocessor_path(model)
    return other, preprocessor.read_preprocessor(other) if other.is_file() else {}


def numbers(text: str | None, option: str) -> Sequence[float] | None:
    """`0.5` or `0.485,0.456,0.406` from the command line."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option} {text}: give numbers with commas between them, e.g. 0.485,0.456,0.406"
        ) from None
