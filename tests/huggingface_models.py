"""Small models of transformers with random weights, one for each family whose folders are tested."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.formats.huggingface.classes import quiet
from secateur.formats.huggingface.model import FromFolder
from secateur.graph.coupling import Coupling
from secateur.graph.widths import is_width
from secateur.types import Group
from secateur.uniform import roles_of

_IMAGE = {"image_size": 16, "patch_size": 8, "num_channels": 3}
_BODY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
_TEXT = {"vocab_size": 61, "max_position_embeddings": 24}
_DECODER = {**_BODY, **_TEXT, "hidden_size": 48, "num_attention_heads": 8, "num_key_value_heads": 4}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "vocab_size": 61}
_WHISPER = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4},
    **{"decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "vocab_size": 61},
    **{"num_mel_bins": 6, "max_source_positions": 8, "max_target_positions": 10, "pad_token_id": 0},
    **{"bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1},
}


@dataclass(frozen=True)
class Case:
    title: str
    model: str  # names of classes of transformers
    config: str
    sizes: dict[str, Any]


FAMILIES = {
    "vit": Case("ViT", "ViTForImageClassification", "ViTConfig", {**_BODY, **_IMAGE}),
    "deit": Case("DeiT", "DeiTForImageClassification", "DeiTConfig", {**_BODY, **_IMAGE}),
    "dinov2": Case(
        "DINOv2",
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {**{k: v for k, v in _BODY.items() if k != "intermediate_size"}, **_IMAGE, "mlp_ratio": 2},
    ),
    "swin": Case(
        "Swin",
        "SwinForImageClassification",
        "SwinConfig",
        {
            **{"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 1], "num_heads": [4, 8]},
            **{"window_size": 4, "mlp_ratio": 2.0},
        },
    ),
    "bert": Case("BERT", "BertForSequenceClassification", "BertConfig", {**_BODY, **_TEXT}),
    "roberta": Case("RoBERTa", "RobertaForSequenceClassification", "RobertaConfig", {**_BODY, **_TEXT}),
    "distilbert": Case(
        "DistilBERT",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {**_TEXT, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 40},
    ),
    "gpt2": Case(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": 61, "n_positions": 24, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0,
         "eos_token_id": 0},
    ),
    "opt": Case(
        "OPT",
        "OPTForCausalLM",
        "OPTConfig",
        {**{k: v for k, v in _BODY.items() if k != "intermediate_size"}, **_TEXT, "ffn_dim": 40,
         "word_embed_proj_dim": 32},
    ),
    "llama": Case("Llama", "LlamaForCausalLM", "LlamaConfig", _DECODER),
    "qwen2": Case("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", _DECODER),
    "qwen3": Case("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", {**_DECODER, "head_dim": 6}),
    "mistral": Case("Mistral", "MistralForCausalLM", "MistralConfig", _DECODER),
    "gemma": Case("Gemma", "GemmaForCausalLM", "GemmaConfig", {**_DECODER, "head_dim": 6}),
    "phi": Case("Phi", "PhiForCausalLM", "PhiConfig", {**_BODY, **_TEXT}),
    "t5": Case("T5", "T5ForConditionalGeneration", "T5Config", _T5),
    "whisper": Case("Whisper", "WhisperForConditionalGeneration", "WhisperConfig", _WHISPER),
    "clip": Case(
        "CLIP",
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {**_BODY, **_TEXT, "projection_dim": 12, "eos_token_id": 2, "bos_token_id": 1},
            "vision_config": {**_BODY, **_IMAGE, "projection_dim": 12},
            "projection_dim": 12,
        },
    ),
}  # fmt: skip


def built(family: str, seed: int = 0, **changed: Any) -> Any:
    """The model of a family with random weights, large enough that every head and unit matters."""
    case, generator = FAMILIES[family], torch.Generator().manual_seed(seed)
    with quiet() as transformers:
        config = getattr(transformers, case.config)(**{**case.sizes, **changed})
        model = getattr(transformers, case.model)(config).eval()
        for value in model.parameters():
            value += 0.1 * torch.randn(value.shape, generator=generator)
    return model


def saved(folder: Path, family: str = "llama", model: Any = None, **how: Any) -> Path:
    """The folder that transformers writes for it."""
    model = built(family) if model is None else model
    with quiet():
        model.save_pretrained(folder, **how)
    return folder


def by_transformers(folder: Path, model: str) -> Any:
    """The folder loaded by `from_pretrained`, with all of its weights used."""
    with quiet() as transformers:
        found, info = getattr(transformers, model).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return found.eval()


def answers(network: Any, loaded: Any, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """What a module of transformers returns, of the outputs and for the inputs of a model of ours."""
    named = {known.name: x for known, x in zip(loaded.inputs, inputs, strict=True)}
    with torch.no_grad():
        out = network(**named)
    return [getattr(out, name) for name in loaded.outputs]


def inputs_for(loaded: Any, seed: int = 0) -> tuple[Tensor, ...]:
    """Three samples for a model of ours."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randint(known.vocabulary, (3, *known.shape), generator=draw)
        if known.vocabulary
        else torch.randn(3, *known.shape, generator=draw)
        for known in loaded.inputs
    )


# --- the table of the guide ---------------------------------------------------------------------------------

HEADS = re.compile(r".*(attn|attention|Attention).*(\.q|query|q_lin|q_proj|c_attn)")
FEED_FORWARD = re.compile(r".*(fc1|gate_proj|intermediate\.dense|ffn\.lin1|c_fc|\.wi)")


def row(family: str, loaded: FromFolder, coupling: Coupling) -> str:
    """What can go of a family, as a row of docs/guides/huggingface.md."""
    roles, whole = roles_of(loaded, coupling.prunable, [g for g in coupling.groups if g.pinned])
    heads, hidden = (
        _cell([g for g in coupling.groups if kind.fullmatch(g.name)], roles.of)
        for kind in (HEADS, FEED_FORWARD)
    )
    widths = _cell([g for g in coupling.groups if is_width(g)], roles.of)
    known = (HEADS, FEED_FORWARD)
    others = [g for g in whole if "/" not in g.name and not any(k.fullmatch(g.name) for k in known)]
    graph = ", ".join(f"`{_short(g.name)}`" for g in others) or "–"
    return f"| {FAMILIES[family].title} | {heads} | {widths} | {hidden} | {graph} |"


def _short(name: str) -> str:
    return ".".join(name.split(".")[-2:])


def _cell(groups: list[Group], roles: dict[str, str]) -> str:
    pinned = [g for g in groups if g.pinned]
    assert groups
    if len(pinned) == len(groups):
        return "whole"
    said = all(g.name in roles for g in groups if not g.pinned)
    return f"{'yes' if said else 'graph'}{', some whole' if pinned else ''}"


def removing(coupling: Coupling, wanted: Callable[[Group], bool], share: float = 0.3) -> dict[str, int]:
    """How many units of each group leave."""
    return {g.name: int(share * g.units) for g in coupling.prunable if wanted(g) and int(share * g.units)}
