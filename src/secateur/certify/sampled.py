"""What a statistical certificate says, as a versioned JSON record. It proves nothing."""

from __future__ import annotations

import math
import os
from functools import cache
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from secateur.certify.certificate import MeasuredRounding
from secateur.decisions import Head
from secateur.errors import InputError
from secateur.evaluate.intervals import rank_for, share_at_most
from secateur.files import write_atomically
from secateur.report.recipe import Fingerprint
from secateur.report.record import Plain, Record, read_record
from secateur.report.summary import html_table
from secateur.report.tables import sampled_table
from secateur.strict_json import dumps

SCHEMA: Final = 1
_ROUNDING = 1e-9  # relative, by which bounds may differ on another machine
DistributionName = Literal["ball", "surrogates", "data"]
BallNorm = Literal["linf", "l2"]

ASSUMPTIONS = (
    "Nothing is proved about any single input. With the confidence, which is that of all claims together, "
    "the shares hold of inputs that are drawn from the declared distribution; of other inputs nothing is "
    "said.",
    "Pseudo-random numbers of torch stand for random ones.",
    "Both models were run as they are given, in the dtype, on the device and in the runtime that are "
    "recorded; others round otherwise.",
)
SEED_WAS_DRAWN = "The seed was drawn by the system after both models were fixed."
SEED_WAS_GIVEN = (
    "The seed was given by the caller, and not drawn after the models were fixed: the confidence holds only "
    "if it was not chosen with regard to the result."
)
OWN_DATA = (
    "The inputs were taken for independent draws from the source that the claims are about, and for inputs "
    "that neither training nor pruning has used. secateur cannot check either."
)

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Distribution(Record):
    """The declared distribution of inputs that the claims are about.

    With mean and std, bounds, eps and inputs are those of images x, and the models take (x − mean) / std.
    """

    name: DistributionName
    described: str
    input_bounds: Plain
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    surrogate: str = ""  # of which fresh draws were made
    norm: BallNorm | None = None
    eps: float | None = None
    inputs: int | None = None  # centres of balls, or data
    indices: tuple[Count, ...] | None = None  # which inputs these are in the data that they are from
    digest: str = ""  # SHA-256 of the inputs: shapes, types and values


class QuantileBound(Record):
    """At least this share of inputs has a drift of at most `at_most`; infinite where draws are too few."""

    share: Share
    at_most: float
    rank: Count  # `at_most` is the so many-th largest drift of the draws


class Counted(Record):
    """What the draws of one set of inputs show, and the bounds that follow."""

    draws: Annotated[int, Field(ge=1)]
    changed: Count | None = None  # decisions; None where nothing is decided
    changed_at_most: Share | None = None
    exceeded: Count | None = None  # drifts above the declared margin; None without one
    exceeded_at_most: Share | None = None
    quantiles: tuple[QuantileBound, ...]
    largest: float  # drift of the draws; no bound

    @staticmethod
    def of(
        draws: int,
        changed: int | None,
        exceeded: int | None,
        largest_first: tuple[float, ...],
        quantiles: tuple[float, ...],
        tail: float,
    ) -> Counted:
        """`largest_first`: the drifts of the draws in order; `tail`: the chance that each bound is wrong."""
        ranks = [_rank(q, draws, tail) for q in quantiles]
        return Counted(
            draws=draws,
            changed=changed,
            changed_at_most=_bound(changed, draws, tail),
            exceeded=exceeded,
            exceeded_at_most=_bound(exceeded, draws, tail),
            quantiles=tuple(
                QuantileBound(share=q, at_most=largest_first[rank - 1] if rank else math.inf, rank=rank)
                for q, rank in zip(quantiles, ranks, strict=True)
            ),
            largest=largest_first[0],
        )

    @property
    def claims(self) -> int:
        """How many bounds there are."""
        return (self.changed is not None) + (self.exceeded is not None) + len(self.quantiles)

    def follows(self, tail: float) -> bool:
        """Whether the bounds are those that follow from the counts."""
        pairs = ((self.changed, self.changed_at_most), (self.exceeded, self.exceeded_at_most))
        return all(self._share_follows(*pair, tail) for pair in pairs) and all(
            self._quantile_follows(bound, tail) for bound in self.quantiles
        )

    def _share_follows(self, count: int | None, bound: float | None, tail: float) -> bool:
        if count is None or bound is None:
            return count is bound
        right = _bound(count, self.draws, tail) if count <= self.draws else None
        return right is not None and math.isclose(bound, right, rel_tol=_ROUNDING)

    def _quantile_follows(self, bound: QuantileBound, tail: float) -> bool:
        if bound.rank != _rank(bound.share, self.draws, tail):
            return False
        if bound.rank < 2:
            return bound.at_most == (self.largest if bound.rank else math.inf)
        return bound.at_most <= self.largest


@cache
def _bound(count: int | None, draws: int, tail: float) -> float | None:
    return None if count is None else share_at_most(count, draws, tail)


_rank = cache(rank_for)


class StatisticalCertificate(Record):
    """How often decisions of a pruned model change, and how far outputs move, with a stated confidence.

    The claims hold of inputs drawn from the declared distribution, all together with the confidence. They are
    no proof about any input: a `Certificate` is.

    Attributes:
        distribution: Where the inputs come from.
        confidence: With at least this probability over the draws, all claims hold.
        correction: How several claims share what is left of it: each is wrong with a probability of at most
            (1 − confidence) / claims.
        rate: The share of inputs that was to be shown; it sets the number of draws.
        margin: The declared margin of the drift, if there is one.
        overall: The claims on the distribution. Of balls, each has the same share in it.
        each: The claims on each ball, where these were asked for.
        commitment: SHA-256 of both fingerprints, recorded before the seed was drawn.
        seed: From which, with the commitment, all draws follow.
        measured_rounding: How far the models as they were run are from float64, measured on some draws.

    Examples:
        >>> import os, tempfile, torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
        >>> found = secateur.certify_by_sampling(net, net, inputs=torch.rand(5, 4), eps=0.1, rate=0.05)
        >>> path = os.path.join(tempfile.mkdtemp(), "net.sampled.json")
        >>> found.save(path)
        >>> secateur.StatisticalCertificate.load(path) == found
        True
    """

    schema_version: Literal[1] = SCHEMA
    kind: Literal["statistical"] = "statistical"
    distribution: Distribution
    confidence: Annotated[float, Field(gt=0, lt=1)]
    correction: Literal["Bonferroni"] = "Bonferroni"
    claims: Annotated[int, Field(ge=1)]
    rate: Annotated[float, Field(gt=0, lt=1)]
    margin: float | None = None
    head: Head
    undecided: str = ""  # why nothing is claimed about decisions, where the head is none
    overall: Counted
    each: tuple[Counted, ...] = ()
    original: Fingerprint
    pruned: Fingerprint
    commitment: str
    seed: int
    seed_from: Literal["system", "caller"]
    measured_rounding: MeasuredRounding
    assumptions: tuple[str, ...]
    versions: dict[str, str]
    date: str
    seconds: float

    @model_validator(mode="after")
    def _consistent(self) -> StatisticalCertificate:
        if self.each and len(self.each) != self.distribution.inputs:
            raise ValueError("each must hold one row for each ball")
        if self.claims != sum(row.claims for row in (self.overall, *self.each)):
            raise ValueError("claims must be the number of bounds")
        if not all(row.follows(self.tail) for row in (self.overall, *self.each)):
            raise ValueError("the bounds do not follow from the counts")
        return self

    @property
    def tail(self) -> float:
        """The probability with which each claim may be wrong, at most."""
        return (1 - self.confidence) / self.claims

    def __repr__(self) -> str:
        (about, *_), rows = sampled_table(self)
        lines = [f"  {name}: {bound}" for name, bound, _ in rows]
        return "\n".join([f"StatisticalCertificate on {about}, {self.confidence!r} confidence", *lines])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Statistical certificate", *sampled_table(self), self.assumptions)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as JSON, atomically."""
        write_atomically(path, lambda file: file.write((dumps(self.model_dump(mode="json")) + "\n").encode()))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> StatisticalCertificate:
        """Read a statistical certificate; `InputError` where the file is none."""
        return read_record(path, StatisticalCertificate, "statistical certificate", SCHEMA, InputError)[0]
