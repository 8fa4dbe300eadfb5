"""What a report shows of one run, as plain values: no figure that the run does not hold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

# The last three are bounds, which are never written as more than they say.
Kind = Literal["count", "bytes", "ms", "share", "number", "at most", "share at most", "share at least"]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """One quantity of the original and of the result.

    Attributes:
        name: What it is.
        before: Of the original; None where it was not measured.
        after: Of the result.
        kind: How it is written.
        interval: Of `after`, where it comes from samples; of `before`, `interval_before`.
        basis: What it was measured on, and what the interval is.
    """

    name: str
    before: float | None
    after: float | None
    kind: Kind = "count"
    interval: Interval | None = None
    interval_before: Interval | None = None
    basis: str = ""

    @property
    def removed(self) -> float | None:
        """The share that went, of what has a size."""
        sized = self.kind in ("count", "bytes", "ms")
        return 1 - self.after / self.before if sized and self.before and self.after is not None else None


@dataclass(frozen=True)
class GroupFact:
    """A group of units: how many there were and how many are left; `pinned` says why none could go."""

    name: str
    units: int
    kept: int
    pinned: str = ""


@dataclass(frozen=True)
class Judgement:
    """A verdict: its word, the inputs behind it, and its reasons and figures as lines."""

    word: str
    on: str
    lines: Sequence[str] = ()


@dataclass(frozen=True)
class OutputFact:
    """How far one output moved over the inputs, or at most can (`proved`)."""

    output: int
    largest: float
    median: float | None = None
    proved: bool = False


@dataclass(frozen=True)
class ClassFact:
    """One class; what was not measured is None.

    Attributes:
        label: Its number.
        inputs: Of the class by the labels.
        accuracy_before, accuracy: On these.
        share_before, share: Of all inputs that each network assigns to it.
        agreement: Share of the inputs of this class by the original that stay.
    """

    label: int
    inputs: int | None = None
    accuracy_before: float | None = None
    accuracy: float | None = None
    share_before: float | None = None
    share: float | None = None
    agreement: float | None = None


@dataclass(frozen=True)
class InputFact:
    """An input whose outputs moved.

    Attributes:
        number: Its place among the inputs, from 0.
        moved: The largest absolute change of an output.
        before, after: What each network decides, as text; empty where they decide nothing.
        label: What the data say; empty without labels.
        thumbnail: A PNG image as a data URI; empty for inputs that are no images.
    """

    number: int
    moved: float
    before: str = ""
    after: str = ""
    label: str = ""
    thumbnail: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"(data:image/png;base64,[A-Za-z0-9+/]+=*)?", self.thumbnail):
            raise ValueError("a thumbnail is a PNG image as a data URI, or an empty text")


@dataclass(frozen=True)
class Facts:
    """What is known of one run. Empty fields are not shown.

    Attributes:
        name: Of the run, for headings: mostly the file.
        asked: What was asked for, a sentence.
        came: What came out, a sentence.
        figures: Before and after.
        verdict: Whether to use the result.
        groups: In the order of the graph, pinned ones with the reason.
        blocked: Name of a tensor that no group holds → why.
        outputs: Drift per output; `outputs_on` says on which inputs.
        classes: Class by class.
        moved: The inputs that moved most; `moved_on` says among which.
        proofs: A certificate in words, a paragraph each.
        assumptions: What the certificate takes for granted.
        sampled: A statistical certificate in words, a paragraph each; no proof.
        sampled_assumptions: What that takes for granted.
        not_covered: What an equivalence statement does not claim.
        quantisation: In lines.
        warnings: What to know before the result is used: shortfall, doubts.
        settings: Name and value of what was set, the seed among them.
        versions: Of the software.
        digests: Name → SHA-256.
        rebuild: The command that makes the result again.
        inputs: Shape and type of each input of the model.
        model: Identifies the original, so that runs on another can be told.
        result_parameters: Of the model that came out, or was measured; to tell whether facts fit together.
    """

    name: str
    asked: str = ""
    came: str = ""
    figures: tuple[Figure, ...] = ()
    verdict: Judgement | None = None
    groups: tuple[GroupFact, ...] = ()
    blocked: Mapping[str, str] = field(default_factory=dict)
    outputs: tuple[OutputFact, ...] = ()
    outputs_on: str = ""
    classes: tuple[ClassFact, ...] = ()
    moved: tuple[InputFact, ...] = ()
    moved_on: str = ""
    proofs: tuple[str, ...] = ()
    assumptions: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    sampled_assumptions: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()
    quantisation: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    rebuild: str = ""
    inputs: tuple[str, ...] = ()
    model: str = ""
    result_parameters: int | None = None


def figure_of(facts: Facts, name: str) -> Figure | None:
    """The figure of that name, if the result of the run has it."""
    return next((f for f in facts.figures if f.name == name and f.after is not None), None)


def joined(first: Facts, second: Facts) -> Facts:
    """The facts of one run from two sources.

    Sequences and mappings are put together, figures of the same name completed by the other source; of texts
    and other values, and of what moved most, the first that is there stays. A warning says where the two are
    about different models.
    """
    merged: dict[str, Any] = {
        f.name: _merged(getattr(first, f.name), getattr(second, f.name)) for f in fields(Facts)
    }
    merged["figures"] = _figures(first.figures, second.figures)
    for name in ("outputs", "moved"):  # each on inputs of its own, or proved: those of one source alone
        source = first if getattr(first, name) else second
        merged |= {field: getattr(source, field) for field in (name, f"{name}_on")}
    came = [text for text in (first.came, second.came) if text]
    merged["came"] = " ".join(came)
    return replace(Facts(**merged), warnings=(*merged["warnings"], *_apart(first, second)))


def _merged(a: Any, b: Any) -> Any:
    if isinstance(a, tuple):
        return (*a, *(x for x in b if x not in a))
    if isinstance(a, Mapping):
        return {**a, **b, **a}
    return a or b


def _figures(first: Sequence[Figure], second: Sequence[Figure]) -> tuple[Figure, ...]:
    """In the order of the first; a pair from the second replaces what the first knows one side of."""
    found = {figure.name: figure for figure in first}
    for other in second:
        own = found.get(other.name)
        if own is None or (own.before is None and other.before is not None):
            found[other.name] = other
    return tuple(found.values())


def _apart(first: Facts, second: Facts) -> list[str]:
    said = []
    if first.model and second.model and first.model != second.model:
        said.append(f"{first.name} and {second.name} are about different original models")
    sizes = first.result_parameters, second.result_parameters
    if None not in sizes and sizes[0] != sizes[1]:
        said.append(
            f"{first.name} is about a model of {sizes[0]:,} parameters, {second.name} about one of "
            f"{sizes[1]:,}: they may be of different runs"
        )
    return said
