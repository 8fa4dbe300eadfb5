"""How much a surrogate may ask of the model: by and large, no more than using the samples will cost."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.surrogates.source import Source

_USED = 3  # forward passes that a sample costs when it is used: both networks, and parts of them again
ALWAYS = 1.8e12  # multiply-accumulates that drawing may cost in any case
_CANDIDATES = 12
_PROBES = (32, 192)
_MOVED = (64, 512)
_STEPS = (4, 40)
_ENOUGH = 20  # steps, before more samples are moved rather than each of them further
_GRADIENT = 3  # passes that one with a gradient costs; a step of matching takes one without before it


@dataclass(frozen=True)
class Effort:
    """What drawing `count` samples may cost, in numbers."""

    candidates: int  # drawn for each sample that is kept
    probes: int  # samples by which a family is judged
    moved: int  # samples that are moved to match batch norm
    steps: int  # of each of these
    class_steps: int  # of each sample toward its class


def passes_for(count: int, work: float) -> float:
    """Forward passes that drawing `count` samples may cost, of `work` multiply-accumulates each."""
    return max(_USED * count, ALWAYS / max(1.0, work))


def effort_for(source: Source, count: int, families: int) -> Effort:
    """A quarter of the passes for judging families, a quarter for candidates, half for moving samples."""
    passes = int(passes_for(count, source.work))
    candidates = _between(passes // 4 // count, 1, _CANDIDATES)
    probes = _between(passes // 4 // (families * (1 + candidates)), *_PROBES)
    half = passes // 2
    steps = half // (1 + _GRADIENT)  # of one sample
    moved = _between(steps // _ENOUGH, *_MOVED)
    return Effort(
        candidates=candidates,
        probes=probes,
        moved=moved,
        steps=_between(steps // moved, *_STEPS),
        class_steps=_between(half // _GRADIENT // count, 0, 5),
    )


def _between(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))
