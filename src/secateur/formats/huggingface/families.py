"""Which sizes the configuration of a family can say, and which tensors show them.

One row for each key: the layers whose weights have that size along `axis`, `#` standing for the number of a
layer. What no row names is of the same size in a smaller folder, or the folder holds a graph.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal


@dataclass(frozen=True)
class Key:
    """A key of `config.json`, with dots where it is in a part.

    `kind`: `width`: the size itself. `heads`: a number of heads, of which each has its part of the size.
    `head_width`: how large that part is; no row has it where it sets the angles of rotary embeddings, too.
    `ratio`: the size in units of that along the weight's other axis.
    """

    key: str
    layers: tuple[str, ...]
    axis: int = 0
    kind: Literal["width", "heads", "head_width", "ratio"] = "width"
    divides: str = ""  # key of a size that the number must divide
    multiple_of: str = ""  # key of a number of which it must be a multiple

    def shows(self, tensor: str, axis: int) -> bool:
        """Whether a tensor has the size of this key along `axis`."""
        return axis == self.axis and any(_pattern(layer).fullmatch(tensor) for layer in self.layers)


@dataclass(frozen=True)
class Family:
    keys: tuple[Key, ...]
    head_width: str = ""  # the key that says how wide a head is, where the class would derive it otherwise
    scaled: bool = True  # whether the class divides logits by the root of this width
    # the key of the number that norms add to the mean square of `hidden_size` numbers
    norm_eps: str = ""

    @property
    def stream(self) -> Key | None:
        """The key of the residual width."""
        return next((key for key in self.keys if key.key == "hidden_size"), None)


@cache
def _pattern(layer: str) -> re.Pattern[str]:
    return re.compile(r"(?:.*\.)?" + re.escape(layer).replace(r"\#", r"\d+") + r"\.weight")


def _heads(key: str, *layers: str) -> Key:
    return Key(key, layers, kind="heads")


def _head_width(key: str, layer: str, names: str) -> Key:
    """`names`: of queries, keys and values."""
    return Key(key, tuple(f"{layer}.{name}" for name in names.split()), kind="head_width")


def _width(key: str, *layers: str, axis: int = 0) -> Key:
    return Key(key, layers, axis)


_QUERIES = _heads("num_attention_heads", "layers.#.self_attn.q_proj")
_KEYS = _heads("num_key_value_heads", "layers.#.self_attn.k_proj")
_GATE = _width("intermediate_size", "layers.#.mlp.gate_proj")
_STREAM = _width("hidden_size", "embed_tokens", "layers.#.self_attn.q_proj", axis=1)
_GATED = Family((_STREAM, _QUERIES, _KEYS, _GATE), "head_dim", norm_eps="rms_norm_eps")
_PROJECTIONS = "q_proj k_proj v_proj"
_VIT = Family(
    (
        _heads("num_attention_heads", "layers.#.attention.q_proj"),
        _head_width("head_dim", "layers.#.attention", _PROJECTIONS),
        _width("intermediate_size", "layers.#.mlp.fc1"),
    ),
    "head_dim",
)
_BERT = Family((_width("intermediate_size", "encoder.layer.#.intermediate.dense"),))
_T5 = Family(
    (
        _heads("num_heads", "layer.#.SelfAttention.q", "layer.#.EncDecAttention.q"),
        _head_width("d_kv", "layer.#.SelfAttention", "q k v"),
        _head_width("d_kv", "layer.#.EncDecAttention", "q k v"),
        _width("d_ff", "layer.#.DenseReluDense.wi", "layer.#.DenseReluDense.wi_0"),
    ),
    "d_kv",
    scaled=False,
)
_CLIP_LAYERS = "encoder.layers.#.mlp.fc1"

FAMILIES: dict[str, Family] = {
    "vit": _VIT,
    "deit": _VIT,
    "dinov2": Family(
        (
            _heads("num_attention_heads", "encoder.layer.#.attention.q_proj"),
            _head_width("head_dim", "encoder.layer.#.attention", _PROJECTIONS),
        ),
        "head_dim",
    ),
    "swin": Family((Key("mlp_ratio", ("encoder.layers.#.blocks.#.mlp.fc1",), kind="ratio"),)),
    "bert": _BERT,
    "roberta": _BERT,
    "distilbert": Family((_width("hidden_dim", "transformer.layer.#.ffn.lin1"),)),
    "gpt2": Family((_width("n_inner", "h.#.mlp.c_fc", axis=1),)),
    "opt": Family((_width("ffn_dim", "decoder.layers.#.fc1"),)),
    "llama": replace(
        _GATED,
        keys=(
            replace(_STREAM, multiple_of="num_attention_heads"),
            replace(_QUERIES, divides="hidden_size"),
            _KEYS,
            _GATE,
        ),
    ),
    "qwen2": _GATED,
    "qwen3": _GATED,
    "mistral": _GATED,
    "gemma": _GATED,
    "phi": Family((_QUERIES, _KEYS, _width("intermediate_size", "layers.#.mlp.fc1")), "head_dim"),
    "t5": _T5,
    "whisper": Family(
        (
            _width("encoder_ffn_dim", "encoder.layers.#.fc1"),
            _width("decoder_ffn_dim", "decoder.layers.#.fc1"),
        )
    ),
    "clip": Family(
        (
            _width("text_config.intermediate_size", f"text_model.{_CLIP_LAYERS}"),
            _width("vision_config.intermediate_size", f"vision_model.{_CLIP_LAYERS}"),
        )
    ),
    "clip_text_model": Family((_width("intermediate_size", _CLIP_LAYERS),)),
    "clip_vision_model": Family((_width("intermediate_size", _CLIP_LAYERS),)),
}
