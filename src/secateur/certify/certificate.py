"""What a certificate says, as a versioned JSON record."""

from __future__ import annotations

import os
from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from secateur.bounds.inference import ASSUMPTIONS as OF_RUNTIMES
from secateur.decisions import Head
from secateur.errors import InputError
from secateur.files import write_atomically
from secateur.report.recipe import Fingerprint
from secateur.report.record import Plain, Record, read_record
from secateur.report.summary import html_table
from secateur.report.tables import certificate_table
from secateur.strict_json import dumps

SCHEMA: Final = 1
Method = Literal["linear", "interval"]

ASSUMPTIONS = (
    "The networks are evaluated in real arithmetic on their stored weights; running them in float32 adds its "
    "error.",
    "Bounds were computed in float64 and moved outward by bounds on all rounding errors; elementary "
    "functions (exp, tanh, erf…) are taken to err by at most 64 units in the last place.",
    "The two graphs are those that torch.export gives for the models as they were handed over.",
)


def assumptions_for(arithmetic: str) -> tuple[str, ...]:
    """What a certificate takes for granted, in real arithmetic or in that of the models."""
    if arithmetic == "real":
        return ASSUMPTIONS
    run = (
        f"The networks are run in {arithmetic} on their stored weights; all rounding is inside of the claims."
    )
    return (run, *OF_RUNTIMES, *ASSUMPTIONS[1:])


class InputSet(Record):
    """All inputs of the box, or of the L∞ balls of radius `eps` round given ones, cut with the box."""

    input_bounds: Plain
    # With mean and std, bounds, eps and inputs are those of images x, and the models take (x − mean) / std.
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    eps: float | None = None
    inputs: int | None = None
    # which inputs these are in the data that they are from
    indices: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    digest: str = ""  # SHA-256 of the inputs: shapes, types and values
    labels: str = ""  # the same of their labels, where there were any

    @model_validator(mode="after")
    def _whole(self) -> InputSet:
        if (self.eps is None) != (self.inputs is None):
            raise ValueError("eps and inputs belong together")
        if self.indices is not None and len(self.indices) != (self.inputs or 0):
            raise ValueError("indices must hold one number for each input")
        return self


class Share(Record):
    """A share of the decisions: what is certain, and what an attack left standing, which can only be more.

    There is one decision for each input; of dense outputs, one at each position of each input.
    """

    certified: float = Field(ge=0, le=1)
    empirical: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> Share:
        if self.empirical is not None and self.empirical < self.certified:
            raise ValueError("a search leaves no less standing than what is certain")
        return self


class MeasuredRounding(Record):
    """How far outputs in the models' own dtype were from those in float64, on some inputs: no bound."""

    dtype: str  # of the pruned model's outputs
    device: str
    runtime: Literal["torch", "onnxruntime"] = "torch"  # that ran the pruned model
    draws: Annotated[int, Field(ge=1)]
    original: float | None = None  # largest difference of an output of the original
    pruned: float | None = None  # None for files that onnxruntime runs as they are, which have no such form
    decisions_changed: Annotated[int, Field(ge=0)] | None = None  # of the pruned model, by rounding


class AgreementMargin(Record):
    """Margins of the original above which the pruned model certainly decides alike, for each row.

    A margin is by how much the score of the class exceeds every other, before softmax or sigmoid; of yes or
    no, how far the score is from the cut. Anywhere in the box or ball of a row, a margin of the original
    above `proved` implies the same decision. That is δ-Top-1 equivalence (Teuber et al. 2024, arXiv
    2410.20207), with margins of scores in place of confidences.
    """

    proved: tuple[Annotated[float, Field(ge=0)], ...]
    found: tuple[Annotated[float, Field(ge=0)], ...] | None = None  # margins at which a search saw a change
    # share of the decisions at the inputs whose margin is above that of their ball
    above: float | None = Field(default=None, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> AgreementMargin:
        found = self.proved if self.found is None else self.found
        if len(found) != len(self.proved) or not all(
            f <= p + 1e-9 * abs(p) for f, p in zip(found, self.proved, strict=True)
        ):
            raise ValueError("found must hold one margin for each row, at most the proved one")
        return self


class Certificate(Record):
    """Bounds on g(x) − f(x), g the pruned model and f the original, for every x of the input set.

    `lower` and `upper` have one row of all outputs for the box; with inputs, one row for each. In a file,
    infinite bounds are the texts "Infinity" and "-Infinity".

    Examples:
        >>> import os, tempfile, torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
        >>> certificate = secateur.certify(net, net, torch.zeros(1, 4))
        >>> path = os.path.join(tempfile.mkdtemp(), "net.certificate.json")
        >>> certificate.save(path)
        >>> secateur.Certificate.load(path) == certificate
        True
    """

    schema_version: Literal[1] = SCHEMA
    input_set: InputSet
    method: Method  # linear (and intervals), or interval
    boxes: Annotated[int, Field(ge=1)] | None = None  # bounded to split the input box; None: it was not split
    # what the outputs were taken for: a name in secateur.decisions; not in older files
    head: Head | None = None
    undecided: str = ""  # why nothing is claimed about decisions, where the head is none
    lower: tuple[tuple[float, ...], ...]
    upper: tuple[tuple[float, ...], ...]
    found: tuple[float, ...] | None = None  # largest |g(x) − f(x)| that an attack found, for each row
    agreement: Share | None = None  # both models decide, all over an input's ball, as f decides at the input
    # one decision (a right one, where labels are given) all over the ball
    stable_original: Share | None = None
    stable_pruned: Share | None = None
    agreement_margin: AgreementMargin | None = None  # None where nothing is decided; not in older files
    original: Fingerprint
    pruned: Fingerprint
    dtype: str = "float64"
    rounding: str = "outward"
    # In which arithmetic the claims hold, rounding included; older files are about real arithmetic.
    arithmetic: Literal["real", "float32", "float64"] = "real"
    inference_rounding: tuple[float, ...] | None = None  # of an output, both models together, for each row
    why_real: str = ""  # where rounding could have been included and was not
    # of the models as they are run; not in older files
    measured_rounding: MeasuredRounding | None = None
    assumptions: tuple[str, ...] = ASSUMPTIONS
    versions: dict[str, str]
    date: str = ""  # when it was made, UTC; not in older files
    seconds: float

    @model_validator(mode="after")
    def _consistent(self) -> Certificate:
        if len(self.lower) != len(self.upper) or len(self.lower) != (self.input_set.inputs or 1):
            raise ValueError("lower and upper must hold one row for each input")
        for lows, highs in zip(self.lower, self.upper, strict=True):
            # NaN is not at most anything.
            if len(lows) != len(highs) or not all(a <= b for a, b in zip(lows, highs, strict=True)):
                raise ValueError("lower must be at most upper for every output")
        if self.agreement_margin is not None and len(self.agreement_margin.proved) != len(self.lower):
            raise ValueError("agreement_margin must hold one number for each row")
        if (self.inference_rounding is None) != (self.arithmetic == "real"):
            raise ValueError("inference_rounding belongs to claims about the arithmetic of the models")
        if self.inference_rounding is not None and len(self.inference_rounding) != len(self.lower):
            raise ValueError("inference_rounding must hold one number for each row")
        found = self.drift if self.found is None else self.found
        if len(found) != len(self.lower) or not all(
            f <= d + 1e-9 * abs(d) for f, d in zip(found, self.drift, strict=True)
        ):
            raise ValueError("found must hold one number for each input, at most its bound")
        return self

    @property
    def drift(self) -> tuple[float, ...]:
        """For each row, the most that any output can move."""
        return tuple(
            max(max(high, -low) for low, high in zip(lows, highs, strict=True))
            for lows, highs in zip(self.lower, self.upper, strict=True)
        )

    def __repr__(self) -> str:
        (about, *_), rows = certificate_table(self)
        return "\n".join([f"Certificate on {about}", *(f"  {name}: {proved}" for name, proved, _ in rows)])

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """For notebooks."""
        return html_table("Certificate", *certificate_table(self), self.assumptions)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate as JSON, atomically."""
        write_atomically(path, lambda file: file.write((dumps(self.model_dump(mode="json")) + "\n").encode()))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Certificate:
        """Read a certificate; `InputError` where the file is none."""
        return read_record(path, Certificate, "certificate", SCHEMA, InputError)[0]
