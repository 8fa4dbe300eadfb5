"""What a certificate says, as a versioned JSON record."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field, ValidationError, model_validator

from secateur.decisions import Head
from secateur.errors import InputError
from secateur.files import write_atomically
from secateur.report.newer import why_newer
from secateur.report.recipe import Fingerprint
from secateur.report.record import Plain, Record
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
    original: Fingerprint
    pruned: Fingerprint
    dtype: str = "float64"
    rounding: str = "outward"
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
            max(max(-low, high) for low, high in zip(lows, highs, strict=True))
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
        try:
            data = Path(path).read_bytes()
            return Certificate.model_validate_json(data)
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from error
        except ValidationError as error:
            if newer := why_newer(data, SCHEMA):
                raise InputError(f"{path}: this certificate {newer}") from error
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise InputError(f"{path} is not a certificate of version 1: {where}: {first['msg']}") from error
