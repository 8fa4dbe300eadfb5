"""Which nodes stay in float: those that lose most, as few as keep the budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.errors import TargetMissedError
from secateur.progress import track

Proto = Any
Build = Callable[[Collection[str]], Proto]  # names of nodes that stay in float → quantised model


@dataclass(frozen=True, eq=False)
class Choice:
    """A quantised model, the nodes that it keeps in float, and its agreement (None if nothing is decided)."""

    proto: Proto
    kept: tuple[str, ...]
    agreement: float | None


def choose(
    nodes: Sequence[str],
    build: Build,
    agreement: Callable[[Proto], float | None],
    least: float | None,
    ranking: Callable[[], Sequence[str]],
) -> Choice:
    """The model with as few nodes in float as keep the agreement at `least`, or None for no budget.

    Nodes are kept in the order of `ranking`, which is called only where the budget does not hold with all of
    them quantised. Their number is doubled until the budget holds, and then halved in between. Every model
    that is taken has been measured. Cost: about 2·log₂(nodes) models.

    Raises:
        TargetMissedError: The float model itself does not keep the budget, or nothing could be quantised.
    """

    def model(count: int) -> Choice:
        kept = tuple(ranked[:count])
        made = build(kept)
        return Choice(made, kept, agreement(made))

    ranked: Sequence[str] = ()
    best = model(0)
    if least is None or _holds(best, least):
        return best
    ranked = ranking()
    failed, count, best = 0, 1, model(min(1, len(nodes)))
    while not _holds(best, least):
        if count >= len(nodes):
            raise _missed(best.agreement, least, "with every node in float")
        failed, count = count, min(2 * count, len(nodes))
        best = model(count)
    while count - failed > 1:
        middle = (failed + count) // 2
        tried = model(middle)
        if _holds(tried, least):
            count, best = middle, tried
        else:
            failed = middle
    if count == len(nodes):
        raise _missed(best.agreement, least, "as long as any node is quantised", below=True)
    return best


def _holds(choice: Choice, least: float) -> bool:
    return choice.agreement is not None and choice.agreement >= least


def _missed(found: float | None, least: float, where: str, below: bool = False) -> TargetMissedError:
    told = f"is below {least:.2%} {where}" if below else f"is {found or 0.0:.2%} {where}, below {least:.2%}"
    return TargetMissedError(
        f"min_agreement: agreement with the original {told}; allow less (--min-agreement), prune less, take "
        "another scheme, or leave quantising out. Nothing was written"
    )


def by_loss(nodes: Sequence[str], build: Build, run: Callable[[Proto], Tensor], progress: bool) -> list[str]:
    """The nodes, those first whose quantisation alone changes the outputs most.

    `run` gives a model's outputs (samples, numbers). Cost: a model and a run of it for each node.
    """
    exact = run(build(nodes))
    losses = {}
    for name in track(nodes, "quantising one node at a time", progress):
        changed = run(build([other for other in nodes if other != name]))
        losses[name] = float((changed - exact).square().mean())
    return sorted(nodes, key=lambda name: -losses[name])
