"""How often a model's training text had each token, guessed from the tokenizer's files or the model alone.

Words of a text fall off as 1 / (rank + r₀) (Zipf 1935, Mandelbrot 1953). Ranks come from the order in which
the tokenizer learned its merges, or from the embeddings; a model that scores tokens tells their shares
itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from secateur.graph.footprint import batch_size
from secateur.surrogates.forward import forward
from secateur.surrogates.source import Inputs, Source
from secateur.surrogates.text import tables

OFFSET = 10.0  # r₀
_SEQUENCES = 16  # on which a model is asked for its shares of tokens
_ROUNDS = 3  # in which the shares of one are the inputs of the next

_OF_EMBEDDINGS: dict[str, Callable[[Tensor], Tensor]] = {  # the least of the key is the most frequent
    "apart": lambda table: table @ table.mean(0),
    "along": lambda table: -table @ table.mean(0),
    "short": lambda table: table.norm(dim=1),
    "long": lambda table: -table.norm(dim=1),
}


def priors(source: Source) -> dict[str, Tensor]:
    """The probabilities of the tokens, (vocabulary,), by name: the best founded guess, or several to choose
    from.

    `scores`: the model's own mean prediction. Without scores that can be asked, `merges`: the order of the
    tokenizer's merges. Without these, by the embeddings: those of frequent tokens are `apart` from the mean
    of all, to which rare ones are drawn, or `along` it, `short` or `long`; or all tokens are alike, `even`.
    """
    text, known = source.text, source.tokenizer
    assert text is not None
    if text.kind == "causal" or (text.kind == "masked" and known is not None and known.mask is not None):
        return {"scores": predicted(source)}
    if known is not None and any(i < text.vocabulary for i in known.order):
        return {"merges": ranked([i for i in known.order if i < text.vocabulary], text.vocabulary)}
    table = source.graph.tensors[tables(source.graph, source.graph.inputs[text.index])[0]].cpu().float()
    found = {
        name: ranked(key(table[: text.vocabulary]).argsort(stable=True).tolist(), text.vocabulary)
        for name, key in _OF_EMBEDDINGS.items()
    }
    return {**found, "even": torch.full((text.vocabulary,), 1 / text.vocabulary)}


def ranked(order: list[int], size: int, offset: float = OFFSET) -> Tensor:
    """p ∝ 1 / (rank + r₀) for the ids in `order`, the first with rank 0, and 0 for all others; (size,)."""
    p = torch.zeros(size)
    p[order] = 1 / (torch.arange(len(order)) + offset)
    return p / p.sum()


def predicted(source: Source) -> Tensor:
    """The mean of the probabilities that the model gives to the tokens; (vocabulary,).

    It is asked on tokens that are all alike likely, then on those that it gave; where it fills masks, on
    sequences of masks. Cost: 48 forward passes of one sample.
    """
    text, known = source.text, source.tokenizer
    assert text is not None
    if text.kind == "masked" and known is not None and known.mask is not None:
        ids = torch.full((1, text.length), known.mask)
        return _allowed(source, mean_probabilities(source, ids))
    p = _allowed(source, torch.ones(text.vocabulary))
    for _ in range(_ROUNDS):
        drawn = torch.multinomial(p, _SEQUENCES * text.length, replacement=True, generator=source.generator)
        p = _allowed(source, mean_probabilities(source, drawn.reshape(_SEQUENCES, text.length)))
    return p


def mean_probabilities(source: Source, ids: Tensor) -> Tensor:
    """Over all positions of sequences (n, length)."""
    text = source.text
    assert text is not None
    total = torch.zeros(text.vocabulary)
    for part in ids.split(batch_size(source.sizes.peak, source.graph.example)):
        total += scores(source, part).softmax(-1).mean((0, 1)) * len(part)
    return total / len(ids)


def scores(source: Source, ids: Tensor) -> Tensor:
    """The model's scores of the tokens on sequences (n, length), (n, length, vocabulary); float32."""
    text = source.text
    assert text is not None
    with torch.no_grad():
        return forward(source, with_others(source, ids))[text.scores].float()


def with_others(source: Source, ids: Tensor) -> Inputs:
    """`ids` as the input of text, and the first row of the example for every other input."""
    text = source.text
    assert text is not None
    return tuple(
        ids.to(x.dtype) if i == text.index else x[:1].cpu().expand(len(ids), *x.shape[1:])
        for i, x in enumerate(source.graph.example)
    )


def _allowed(source: Source, p: Tensor) -> Tensor:
    """Without the ids that stand for no text; (vocabulary,), sums to one."""
    known, text = source.tokenizer, source.text
    assert text is not None
    if known is not None:
        keep = torch.zeros(text.vocabulary)
        keep[[i for i in known.order if i < text.vocabulary]] = 1.0
        p = p * keep if bool(keep.any()) else p
    return p / p.sum()
