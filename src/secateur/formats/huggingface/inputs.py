"""What a model of transformers takes and gives, as tensors: inferred from its configuration."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError

LENGTH = 64  # tokens of an example, unless the model has fewer positions

# What is returned: of these rows, the first that the model's output has something of.
OUTPUTS: tuple[tuple[str, ...], ...] = (
    ("logits",),
    ("start_logits", "end_logits"),
    ("prediction_logits", "seq_relationship_logits"),
    ("image_embeds", "text_embeds"),
    ("last_hidden_state", "pooler_output"),
)


@dataclass(frozen=True)
class InputOf:
    """An input: its name, the shape of one sample, and for ids of tokens how many there are."""

    name: str
    shape: tuple[int, ...]
    vocabulary: int = 0

    def example(self) -> Tensor:
        """Two samples: different ids, or zeros."""
        shape = (2, *self.shape)
        if not self.vocabulary:
            return torch.zeros(shape)
        ids = torch.arange(2 * self.shape[0]) * 7919 + self.vocabulary // 2
        return (ids % self.vocabulary).reshape(shape)

    def check(self, x: Tensor) -> None:
        """Raise `InputError` for a tensor of another type, and for ids out of the vocabulary."""
        if x.is_floating_point() == bool(self.vocabulary):
            kind = "int64 ids of tokens" if self.vocabulary else "float32"
            raise InputError(f"{self.name} takes {kind}, not {x.dtype}")
        if self.vocabulary and x.numel() and not (x.min() >= 0 and x.max() < self.vocabulary):
            raise InputError(
                f"{self.name} holds ids from {int(x.min())} to {int(x.max())}; those of the vocabulary lie "
                f"from 0 to {self.vocabulary - 1}"
            )


def inputs_of(network: Any) -> tuple[InputOf, ...]:
    """The inputs that `forward` needs, in its order. Raises `InputError` where they cannot be told."""
    known = {found.name: found for found in _known(network)}
    wanted = [name for name in inspect.signature(network.forward).parameters if name in known]
    if network.main_input_name not in wanted:
        raise InputError(
            f"the shape of {network.main_input_name!r} cannot be told from the configuration of "
            f"{type(network).__name__}; load it in Python with transformers, and give the module and "
            "example_inputs to secateur.prune"
        )
    return tuple(known[name] for name in wanted)


def _known(network: Any) -> Iterator[InputOf]:
    """Inputs whose shapes the configuration tells, of those that the network needs."""
    config, needed = network.config, {network.main_input_name}
    if getattr(config, "is_encoder_decoder", False):
        needed.add("decoder_input_ids")
    both = hasattr(config, "text_config") and hasattr(config, "vision_config")
    if both:
        needed |= {"input_ids", "pixel_values"}
    image, text = (config.vision_config, config.text_config) if both else (config, config)
    if "pixel_values" in needed and (size := _image_size(image)):
        yield InputOf("pixel_values", (getattr(image, "num_channels", 3), *size))
    for name in ("input_ids", "decoder_input_ids"):
        if name in needed and (vocabulary := getattr(text, "vocab_size", 0)):
            yield InputOf(name, (min(LENGTH, _positions(text, name)),), vocabulary)
    if "input_features" in needed and hasattr(config, "num_mel_bins"):
        yield InputOf("input_features", (config.num_mel_bins, 2 * config.max_source_positions))


def _image_size(config: Any) -> tuple[int, ...]:
    size = getattr(config, "image_size", None)
    return (size, size) if isinstance(size, int) else tuple(size or ())


def _positions(config: Any, name: str) -> int:
    """How many tokens there may be; families with padding count positions from two on."""
    keys = ("max_target_positions",) if name.startswith("decoder") else ()
    for key in (*keys, "max_position_embeddings", "n_positions"):
        found = getattr(config, key, None)
        if isinstance(found, int) and found > 2:
            return found - 2 if found <= LENGTH + 2 else found
    return LENGTH


def outputs_of(network: Any, inputs: tuple[InputOf, ...]) -> tuple[str, ...]:
    """The names of the tensors that are returned; one pass on the example tells which there are."""
    with torch.no_grad():
        out = network(**{found.name: found.example() for found in inputs})
    for row in OUTPUTS:
        present = tuple(name for name in row if isinstance(getattr(out, name, None), Tensor))
        if present:
            return present
    raise InputError(
        f"{type(network).__name__} returns none of {', '.join(n for row in OUTPUTS for n in row)}"
    )
