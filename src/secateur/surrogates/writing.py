"""Text by the model itself: written token by token where it tells the next, refined where it fills masks."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.graph.footprint import batch_size
from secateur.graph.workers import in_order
from secateur.surrogates.box import framed, framed_at, tokens
from secateur.surrogates.effort import passes_for
from secateur.surrogates.frequency import priors, scores, with_others
from secateur.surrogates.source import Source
from secateur.types import Samples

TEMPERATURE = 1.0
_FEWEST = 8  # passes for which a sequence is written, whatever they cost
_BATCH = 32  # sequences that are written side by side
_ROUNDS = 10  # of hiding and filling
_HIDDEN = (0.5, 0.15)  # share of the tokens that are hidden in the first round, and in the last


def written(source: Source, count: int) -> Samples:
    """Text that the model writes, or sequences of which it fills in hidden tokens again and again.

    A causal model begins with one token of its own mean prediction (after those with which the tokenizer
    begins every sequence) and draws each next one at temperature 1. A model that fills masks gets tokens by
    the best prior and is asked for hidden ones in ten rounds; where the mask's id is not known, these tokens
    are used as they are.

    Cost: of a causal model, a forward pass for each token at most, and in all no more than using `count`
    samples does (see `effort`), but eight for each at least; tokens that these do not reach are drawn from
    what the last pass but one left before them. Ten passes a sample of a model that fills masks. Raises
    `InputError` for a model that scores no tokens.
    """
    text, known = source.text, source.tokenizer
    if text is None or text.kind == "other":
        raise InputError(
            "written needs a model that scores every token of its vocabulary at each position (a language "
            "model); use another surrogate, such as auto or ranks"
        )
    name, prior = next(iter(priors(source).items()))
    if text.kind == "causal":
        passes = min(text.length, max(_FEWEST, int(passes_for(count, source.work)) // count))
        ids = write(source, count, prior, passes=passes)
        how = f"{len(ids)} sequences written in {passes} passes at temperature {TEMPERATURE:g}"
    elif known is not None and known.mask is not None:
        ids = fill(source, count, prior, known.mask)
        how = f"masked tokens filled in {_ROUNDS} rounds"
    else:
        ids, how = tokens(source, prior, count), "independent tokens"
    return Samples(with_others(source, ids), drawn=f"{how}, first tokens by {name}")


def write(
    source: Source, count: int, first: Tensor, temperature: float = TEMPERATURE, passes: int | None = None
) -> Tensor:
    """Sequences that begin with a token of the probabilities `first`; shape: (count, length).

    All positions are drawn at once from what the model says of the sequence so far, each with random numbers
    of its own, and again until nothing changes. Whatever stands up to a position fixes what is drawn after
    it, so that this gives what drawing one by one gives, in no more passes than there are tokens (`passes`:
    fewer).
    """
    text = source.text
    assert text is not None
    start = tokens(source, first, count)
    size = max(1, min(_BATCH, batch_size(source.sizes.peak, source.graph.example)))
    parts = start.split(size)
    seeds = torch.randint(2**62, (len(parts),), generator=source.generator).tolist()

    def one(pair: tuple[Tensor, int]) -> Tensor:
        return _written(source, *pair, temperature, passes or text.length)

    return torch.cat(list(in_order(one, zip(parts, seeds, strict=True))))


def _written(source: Source, ids: Tensor, seed: int, temperature: float, passes: int) -> Tensor:
    """One batch, (n, length)."""
    text = source.text
    assert text is not None
    begin, end = framed_at(source)
    fixed = max(1, begin + (begin == 0))  # tokens that are not drawn
    left = torch.arange(len(ids))  # sequences that may still change
    for _ in range(passes):
        noise = torch.empty(len(ids), text.length - 1, text.vocabulary)
        noise.exponential_(generator=torch.Generator().manual_seed(seed))
        p = _allowed_scores(source, scores(source, ids[left])[:, :-1] / temperature).softmax(-1)
        drawn = ids[left].clone()
        drawn[:, fixed:end] = (p / noise[left]).argmax(-1)[:, fixed - 1 : end - 1].to(ids.dtype)
        changed = (drawn != ids[left]).any(1)
        ids[left] = drawn
        left = left[changed]
        if not len(left):
            break
    return ids


def fill(source: Source, count: int, prior: Tensor, mask: int, rounds: int = _ROUNDS) -> Tensor:
    """Sequences of independent tokens, of which a share is hidden and drawn anew in each round; (count,
    length).

    The share falls from one half to 15 %.
    """
    text = source.text
    assert text is not None
    ids = tokens(source, prior, count)
    size = batch_size(source.sizes.peak, source.graph.example)
    parts = ids.split(size)
    seeds = torch.randint(2**62, (len(parts),), generator=source.generator).tolist()

    def one(pair: tuple[Tensor, int]) -> Tensor:
        part, seed = pair
        generator = torch.Generator().manual_seed(seed)
        for number in range(rounds):
            share = _HIDDEN[0] + (_HIDDEN[1] - _HIDDEN[0]) * number / max(1, rounds - 1)
            hidden = torch.rand(part.shape, generator=generator) < share
            p = _allowed_scores(source, scores(source, part.masked_fill(hidden, mask))).softmax(-1)
            noise = torch.empty(p.shape).exponential_(generator=generator)
            part = framed(source, torch.where(hidden, (p / noise).argmax(-1), part.long()))
        return part

    return torch.cat(list(in_order(one, zip(parts, seeds, strict=True))))


def _allowed_scores(source: Source, y: Tensor) -> Tensor:
    """Scores with those of ids that stand for no text at −∞."""
    known, text = source.tokenizer, source.text
    assert text is not None
    if known is None:
        return y
    out = torch.ones(text.vocabulary, dtype=torch.bool)
    out[[i for i in known.order if i < text.vocabulary]] = False
    return y if bool(out.all()) else y.masked_fill(out, -torch.inf)
