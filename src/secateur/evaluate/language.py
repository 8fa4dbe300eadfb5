"""Language models on text: perplexity, next tokens, and how far the probabilities are from the original's."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.evaluate.accuracy import logits_of, placed
from secateur.evaluate.cost import latency_ms
from secateur.evaluate.report import Decode, Estimate, Language
from secateur.progress import track
from secateur.torch_state import EXPORTING

_NUMBERS = 2**26  # scores that are there at a time
_Z = 1.959964  # of a normal interval of 95 %
_ROUNDING = 1e-4  # of the largest score

Row = dict[str, Tensor]  # means over the tokens of each sequence, (n,)


def scores_tokens(model: nn.Module, ids: Tensor, device: torch.device | str | None) -> bool:
    """Whether the model gives scores (n, tokens, vocabulary) for sequences (n, tokens) of whole numbers."""
    if ids.ndim != 2 or ids.shape[1] < 2 or ids.is_floating_point() or ids.dtype == torch.bool:
        return False
    try:
        return _scores(model, torch.zeros_like(ids[:1]), device).ndim == 3  # 0 is an id of every model
    except InputError:
        return False


def language(
    model: nn.Module,
    original: nn.Module | None,
    ids: Tensor,
    top_k: Sequence[int],
    batch_size: int,
    device: torch.device | str | None,
    progress: bool,
) -> tuple[Language, tuple[str, ...]]:
    """Measure a model on sequences of ids (n, tokens), and what to warn of.

    Every token but the first is predicted from those before it. Raises `InputError` where the model is no
    language model.
    """
    vocabulary = _scores(model, torch.zeros_like(ids[:1]), device).shape[-1]
    if int(ids.min()) < 0 or int(ids.max()) >= vocabulary:
        raise InputError(
            f"ids range from {int(ids.min())} to {int(ids.max())}, but the model knows {vocabulary} tokens; "
            "was the text cut with another tokenizer?"
        )
    if max(top_k) > vocabulary:
        raise InputError(f"top_k={max(top_k)} does not fit a model of {vocabulary} tokens")
    causal = _is_causal(model, ids, device)
    if not causal and original is None:
        raise InputError(
            "the model's scores of a token depend on later tokens, so that it predicts no next token; give "
            "the original (--original) to compare its scores with"
        )
    size = max(1, min(batch_size, _NUMBERS // (ids.shape[1] * vocabulary)))
    models = [model] if original is None else [model, original]
    rows = list[Row]()
    for start in track(range(0, len(ids), size), "predicting", progress):
        part = ids[start : start + size]
        found = [_scores(m, part, device).float() for m in models]
        if found[0].shape != found[-1].shape:
            raise InputError(f"the model scores {vocabulary} tokens, the original {found[-1].shape[-1]}")
        rows.append(_row(found, part.to(found[0].device), top_k, causal))
    every = {key: torch.cat([row[key].double().cpu() for row in rows]) for key in rows[0]}
    doubt = "the scores of a token depend on later tokens: no perplexity is given" if not causal else ""
    return _language(every, ids, top_k), (doubt,) if doubt else ()


def _row(found: Sequence[Tensor], ids: Tensor, top_k: Sequence[int], causal: bool) -> Row:
    """Of one batch: the scores of the model, and of the original where there is one."""
    row: Row = {}
    if causal:
        for name, scores in zip(("", "original_"), found, strict=False):
            ahead, own = scores[:, :-1], ids[:, 1:, None].long()
            row[f"{name}nll"] = -ahead.log_softmax(-1).gather(-1, own).mean((1, 2))
            before = (ahead > ahead.gather(-1, own)).sum(-1)
            row |= {f"{name}top{k}": (before < k).double().mean(1) for k in top_k}
    if len(found) > 1:
        ours, theirs = (scores.log_softmax(-1) for scores in found)
        row["kl"] = (theirs.exp() * (theirs - ours)).nan_to_num(0.0).sum(-1).mean(1)
        row["agreement"] = (ours.argmax(-1) == theirs.argmax(-1)).double().mean(1)
    if not all(bool(torch.isfinite(value).all()) for value in row.values()):
        raise InputError("the model's scores are NaN or infinite on this text; nothing can be measured on it")
    return row


def _language(every: Row, ids: Tensor, top_k: Sequence[int]) -> Language:
    def estimate(key: str) -> Estimate | None:
        return mean_of(every[key]) if key in every else None

    def perplexity(key: str) -> Estimate | None:
        found = estimate(key)
        if found is None:
            return None
        return Estimate(value=math.exp(found.value), low=_exp(found.low), high=_exp(found.high))

    if "original_nll" in every:
        every["gap"] = every["nll"] - every["original_nll"]
    return Language(
        tokens=ids.shape[1],
        perplexity=perplexity("nll"),
        original_perplexity=perplexity("original_nll"),
        perplexity_ratio=perplexity("gap"),
        accuracy={k: mean_of(every[f"top{k}"]) for k in top_k if "nll" in every},
        original_accuracy={k: mean_of(every[f"original_top{k}"]) for k in top_k if "original_nll" in every},
        agreement=estimate("agreement"),
        kl=estimate("kl"),
    )


def mean_of(values: Tensor) -> Estimate:
    """The mean of values of independent sequences (n,), and its normal interval of 95 %; of one, none."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return Estimate(value=mean)
    half = _Z * float(values.std()) / math.sqrt(count)
    return Estimate(value=mean, low=mean - half, high=mean + half)


def _exp(value: float | None) -> float | None:
    return None if value is None else math.exp(value)


def _is_causal(model: nn.Module, ids: Tensor, device: torch.device | str | None) -> bool:
    """Whether the scores of the first half stay where the tokens of the second half change."""
    half, vocabulary = ids.shape[1] // 2, int(ids.max()) + 1
    changed = ids[:1].clone()
    changed[:, half:] = (ids[:1, half:] + 1) % max(2, vocabulary)
    before, after = (_scores(model, x, device)[:, :half].float() for x in (ids[:1], changed))
    return float((before - after).abs().max()) <= _ROUNDING * float(before.abs().max())


def _scores(model: nn.Module, ids: Tensor, device: torch.device | str | None) -> Tensor:
    module, place = placed(model, device)
    with torch.no_grad():
        found = logits_of(module, ids.to(place))
    if found.ndim != 3 or found.shape[:2] != ids.shape:
        raise InputError(
            f"the model's output for ids of shape {tuple(ids.shape)} has shape {tuple(found.shape)}; a "
            "language model gives (sequences, tokens, vocabulary)"
        )
    return found


def decode(models: Sequence[nn.Module], ids: Tensor, device: torch.device) -> list[Decode]:
    """Milliseconds of each model for one sequence at once and, where it keeps a cache, for one more token.

    Models that take and give `past_key_values`, as those of transformers do, have one.
    """
    prompt = ids[:1].to(device)
    prefill = latency_ms([lambda m=m: _run(m, prompt) for m in models], device)  # type: ignore[misc]
    steps = [_step(m, prompt) for m in models]
    if any(step is None for step in steps):
        return [Decode(prefill_ms=ms) for ms in prefill]
    each = latency_ms([step for step in steps if step is not None], device)
    return [Decode(prefill_ms=a, decode_ms=b) for a, b in zip(prefill, each, strict=True)]


def _step(model: nn.Module, prompt: Tensor) -> Callable[[], object] | None:
    """A pass of one token behind `prompt`; None for a model that keeps no cache."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return None
    try:
        cache = getattr(_run(model, prompt, use_cache=True), "past_key_values", None)
        if cache is None or not hasattr(cache, "crop"):
            return None
        length, last = prompt.shape[1], prompt[:, -1:]

        def run() -> object:
            cache.crop(length)
            return _run(model, last, use_cache=True, past_key_values=cache)

        run()
    except Exception:  # whatever a model that has no such cache raises
        return None
    return run


def _run(model: nn.Module, ids: Tensor, **given: Any) -> Any:
    with torch.no_grad(), EXPORTING:
        return model(ids, **given)
