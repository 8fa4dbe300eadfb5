"""Equivalence statements: what a certificate claims, for whom it may concern, as JSON and as a page.

Draft guidance for aviation (the EASA concept paper on machine learning, ED-324 in preparation) speaks of
semantics preservation where an implementation replicates a described model, exactly or within a declared
margin (Valot et al. 2025, arXiv 2509.18681). A pruned model is another model and not an implementation of the
original, so a statement takes over what such evidence has to name (domain, margin, method, arithmetic, what
is left out), and not the term.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field

from secateur import arguments as may
from secateur.arguments import parsed
from secateur.certify.certificate import Certificate, MeasuredRounding
from secateur.certify.sampled import StatisticalCertificate
from secateur.errors import InputError
from secateur.files import refusals_named, write_atomically
from secateur.printable import printable
from secateur.report.recipe import Fingerprint
from secateur.report.record import Plain, Record, read_record
from secateur.report.tables import upward
from secateur.strict_json import dumps

SCHEMA: Final = 1
TITLE = "Equivalence statement"
Held = Literal["proved", "refuted", "open", "bounded"]

_OF_BOTH = (
    "Inputs outside of the domain.",
    "Whether the original is right, safe or fit for its purpose. The pruned model is compared with the "
    "original alone.",
    "Compliance with a standard or a regulation. What draft aviation guidance calls semantics preservation "
    "is about the implementation of a model; pruning makes another model.",
)
_OF_OTHER_FORMS = (
    "Other forms of the pruned model (converted, quantised, compiled) and other runtimes and processors. "
    "Each needs evidence of its own that it computes what the pruned model does."
)
_OF_PROOFS = (
    _OF_OTHER_FORMS,
    "Rounding: the claims hold in real arithmetic on the stored weights. Rounding of the models as they are "
    "run comes on top of them; it was measured, where this is said above, and not bounded.",
)
_OF_RUNNING = (
    "Other forms of the pruned model (converted, quantised, compiled), and runtimes that do not meet the "
    "assumptions below. Each needs evidence of its own that it computes what the pruned model does.",
)
_OF_STATISTICS = (
    _OF_OTHER_FORMS,
    "Single inputs, and inputs that are chosen and not drawn, such as those of an adversary.",
    "Shares that are smaller than the bounds: decisions may change on that share of the inputs.",
)


class Identity(Record):
    """One of the two models: digests of its tensors and ops, and of the file that it was read from."""

    fingerprint: Fingerprint
    file: str = ""  # its name without folders; empty where none was named
    sha256: str = ""


class Claim(Record):
    """One claim. `quantity` and `bound` are for machines; `text` says the same."""

    quantity: Literal[
        "drift",
        "agreement",
        "agreement margin",
        "changed decisions",
        "drift above the margin",
        "drift quantile",
    ]
    bound: float  # an upper bound; of `agreement`, a lower one
    share: float | None = None  # of a quantile: of the inputs
    observed: float | None = None  # what a search or the draws have shown; no bound
    text: str


class DeclaredMargin(Record):
    """The most that an output may change, as the caller declared it, and what is known of it."""

    drift: Annotated[float, Field(ge=0)]
    held: Held
    text: str


class Domain(Record):
    """The inputs that the claims are about; see `InputSet` and `Distribution`."""

    text: str
    input_bounds: Plain
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    eps: float | None = None
    inputs: int | None = None
    digest: str = ""


class Arithmetic(Record):
    """For which arithmetic the claims hold."""

    text: str
    included: float | None = None  # the most that rounding may come to, where the claims include it
    measured: MeasuredRounding | None = None


class Statement(Record):
    """What is claimed of a pruned model, and what is not; made by `equivalence_statement`.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
        >>> certificate = secateur.certify(net, net, torch.zeros(1, 4))
        >>> statement = secateur.equivalence_statement(certificate, margin=0.1)
        >>> statement.margin.held
        'proved'
        >>> print(statement.markdown().splitlines()[0])
        # Equivalence statement
    """

    schema_version: Literal[1] = SCHEMA
    kind: Literal["equivalence statement"] = "equivalence statement"
    method: Literal["proof", "statistics"]
    method_text: str
    domain: Domain
    margin: DeclaredMargin | None = None
    confidence: float | None = None  # of all claims together; None for proofs
    claims: tuple[Claim, ...]
    arithmetic: Arithmetic
    not_covered: tuple[str, ...]
    assumptions: tuple[str, ...]
    original: Identity
    pruned: Identity
    seed: int | None = None
    seed_from: Literal["system", "caller"] | None = None
    versions: dict[str, str]
    command: str = ""
    date: str

    def markdown(self) -> str:
        """One page of Markdown; text that may come from files is escaped."""
        return "\n".join(_page(self)) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the statement, atomically: JSON to a `.json` file, a page to an `.md` file."""
        suffix = Path(parsed("path", path, may.PATH)).suffix.lower()
        if suffix not in (".json", ".md"):
            raise InputError(f"{path}: a statement is a .json or an .md file")
        text = self.markdown() if suffix == ".md" else dumps(self.model_dump(mode="json")) + "\n"
        write_atomically(path, lambda file: file.write(text.encode()))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Statement:
        """Read a statement from JSON; `InputError` where the file is none."""
        return read_record(path, Statement, "statement", SCHEMA, InputError)[0]


def equivalence_statement(
    certificate: Certificate | StatisticalCertificate,
    *,
    margin: float | None = None,
    original: str | os.PathLike[str] | None = None,
    pruned: str | os.PathLike[str] | None = None,
    command: str = "",
) -> Statement:
    """What a certificate claims, with all that a reader needs to judge it.

    Args:
        certificate: of `certify` or `certify_by_sampling`.
        margin: the most that an output may change, declared by you; the statement says whether that is
            proved. Of statistics it has to be declared before the draws, to `certify_by_sampling`.
        original, pruned: the files of both models, whose digests the statement then holds.
        command: the command that made the certificate, for the record.

    Raises:
        InputError: a margin that was declared too late, or files that cannot be read.

    Examples:
        >>> import torch, secateur
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)).eval()
        >>> found = secateur.certify_by_sampling(net, net, inputs=torch.rand(5, 4), eps=0.1, rate=0.05)
        >>> secateur.equivalence_statement(found).method
        'statistics'
    """
    margin = parsed("margin", margin, may.optional(may.number("a drift of at least 0", low=0)))
    models = {
        "original": _identity(certificate.original, original),
        "pruned": _identity(certificate.pruned, pruned),
    }
    shared = {
        **models,
        "assumptions": certificate.assumptions,
        "versions": certificate.versions,
        "command": command,
        "date": certificate.date,
    }
    if isinstance(certificate, Certificate):
        return _of_proof(certificate, margin, shared)
    if margin not in (None, certificate.margin):
        raise InputError(
            f"margin={margin:g}: of statistics, a margin is declared before the draws; give it to "
            "certify_by_sampling (certify --margin)"
        )
    return _of_statistics(certificate, shared)


def _identity(found: Fingerprint, path: str | os.PathLike[str] | None) -> Identity:
    if path is None or not Path(path).is_file():
        return Identity(fingerprint=found)
    with refusals_named(f"cannot read {path}"), open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return Identity(fingerprint=found, file=Path(path).name, sha256=content)


# --- proofs -------------------------------------------------------------------------------------------------


def _of_proof(found: Certificate, margin: float | None, shared: dict[str, object]) -> Statement:
    where = found.input_set
    text = (
        "every input within the input bounds"
        if where.eps is None
        else f"every input within {where.eps:g} (L∞) of one of {where.inputs:,} given inputs, and within the "
        "input bounds"
    )
    return Statement.model_validate(
        {
            "method": "proof",
            "method_text": f"sound bounds ({found.method}) over the whole domain"
            + (f", split ({found.boxes:,} boxes)" if found.boxes else "")
            + f", computed in {found.dtype} and rounded {found.rounding}",
            "domain": _domain(text, where),
            "margin": None if margin is None else _proved_margin(found, margin),
            "claims": tuple(_proved_claims(found)),
            "arithmetic": _of_proofs(found),
            "not_covered": (*_OF_BOTH, *(_OF_PROOFS if found.arithmetic == "real" else _OF_RUNNING)),
            **shared,
        }
    )


def _of_proofs(found: Certificate) -> Arithmetic:
    """Rounding of both models as they are run is inside of the claims, or beside them."""
    if found.inference_rounding is None:
        text = "real arithmetic on the stored weights"
        return Arithmetic(
            text=f"{text} ({found.why_real})" if found.why_real else text, measured=found.measured_rounding
        )
    most = max(found.inference_rounding)
    return Arithmetic(
        text=f"both models as they are run in {found.arithmetic}, summed in any order; rounding of at most "
        f"{upward(most)} is inside of the claims",
        included=most,
        measured=found.measured_rounding,
    )


def _domain(text: str, where: object) -> Domain:
    names = ("input_bounds", "mean", "std", "eps", "inputs", "digest")
    return Domain(text=text, **{name: getattr(where, name) for name in names})


def _proved_claims(found: Certificate) -> Iterator[Claim]:
    worst = max(found.drift)
    yield Claim(
        quantity="drift",
        bound=worst,
        observed=None if found.found is None else max(found.found),
        text=f"No output of the pruned model differs from that of the original by more than {upward(worst)}.",
    )
    if (about := found.agreement_margin) is not None:
        bound = max(about.proved)
        yield Claim(
            quantity="agreement margin",
            bound=bound,
            observed=None if about.found is None else max(about.found),
            text=f"Both models decide alike wherever the margin of the original is above {upward(bound)}.",
        )
    if found.agreement is not None:
        share = found.agreement.certified
        yield Claim(
            quantity="agreement",
            bound=share,
            observed=found.agreement.empirical,
            text=f"Round {_down(share)}% of the given inputs, both models decide at every input of the ball "
            "as the original does at its centre.",
        )


def _proved_margin(found: Certificate, margin: float) -> DeclaredMargin:
    proved = sum(drift <= margin for drift in found.drift)
    refuted = sum(drift > margin for drift in found.found or ())
    rows = len(found.drift)
    held: Held = "proved" if proved == rows else "refuted" if refuted else "open"
    of_balls = "" if rows == 1 else f" on {proved:,} of {rows:,} balls"
    said = {
        "proved": f"No output changes by more than the margin, which is proved{of_balls}.",
        "refuted": f"A search has found inputs that exceed the margin, on {refuted:,} of {rows:,} sets of "
        f"inputs; it is proved{of_balls or ' on none'}.",
        "open": f"Neither proved nor refuted everywhere; it is proved{of_balls or ' on none'}.",
    }
    return DeclaredMargin(drift=margin, held=held, text=said[held])


# --- statistics ---------------------------------------------------------------------------------------------


def _of_statistics(found: StatisticalCertificate, shared: dict[str, object]) -> Statement:
    where, row = found.distribution, found.overall
    margin = None
    if found.margin is not None and row.exceeded_at_most is not None:
        margin = DeclaredMargin(
            drift=found.margin,
            held="bounded",
            text=f"At most {upward(100 * row.exceeded_at_most)}% of inputs exceed the margin.",
        )
    return Statement.model_validate(
        {
            "method": "statistics",
            "method_text": f"{row.draws:,} independent draws from the declared distribution; bounds of "
            f"Clopper and Pearson on shares, ordered draws for quantiles; {found.claims:,} claims share what "
            f"is left of the confidence ({found.correction})",
            "domain": _domain(f"inputs drawn from: {where.described}", where),
            "margin": margin,
            "confidence": found.confidence,
            "claims": tuple(_sampled_claims(found)),
            "arithmetic": Arithmetic(
                text=_as_run(found),
                measured=found.measured_rounding,
            ),
            "not_covered": (*_OF_BOTH, *_OF_STATISTICS),
            "seed": found.seed,
            "seed_from": found.seed_from,
            **shared,
        }
    )


def _as_run(found: StatisticalCertificate) -> str:
    how = found.measured_rounding
    if how.runtime == "onnxruntime":
        return f"the pruned model as onnxruntime {found.versions.get('onnxruntime', '')} runs it"
    return f"{how.dtype} as run on {how.device} with torch {found.versions.get('torch', '')}"


def _sampled_claims(found: StatisticalCertificate) -> Iterator[Claim]:
    row = found.overall
    if row.changed is not None and row.changed_at_most is not None:
        yield Claim(
            quantity="changed decisions",
            bound=row.changed_at_most,
            observed=row.changed / row.draws,
            text=f"At most {upward(100 * row.changed_at_most)}% of decisions differ from the original's.",
        )
    if row.exceeded is not None and row.exceeded_at_most is not None:
        yield Claim(
            quantity="drift above the margin",
            bound=row.exceeded_at_most,
            observed=row.exceeded / row.draws,
            text=f"At most {upward(100 * row.exceeded_at_most)}% of inputs have an output that changes by "
            f"more than {found.margin}.",
        )
    for bound in row.quantiles:
        yield Claim(
            quantity="drift quantile",
            bound=bound.at_most,
            share=bound.share,
            text=f"For at least {100 * bound.share:.10g}% of inputs, no output changes by more than "
            f"{upward(bound.at_most)}."
            if bound.rank
            else f"Nothing: the draws are too few to bound the drift of {100 * bound.share:.10g}% of inputs.",
        )


# --- the page -----------------------------------------------------------------------------------------------


def _page(found: Statement) -> Iterator[str]:
    proof = found.method == "proof"
    yield f"# {TITLE}"
    yield ""
    yield "Of a pruned neural network and the original that it was made from."
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {name} | {_safe(text)} |" for name, text in _facts(found))
    yield ""
    yield "## Claims"
    yield ""
    if found.confidence is not None:
        yield f"With a confidence of {found.confidence!r} for all of them together; nothing is proved:"
        yield ""
    yield from (f"- {_safe(claim.text)}{_observed(claim, proof)}" for claim in found.claims)
    for title, lines in (("Not covered", found.not_covered), ("Assumptions", found.assumptions)):
        yield ""
        yield f"## {title}"
        yield ""
        yield from (f"- {_safe(line)}" for line in lines)


def _observed(claim: Claim, proof: bool) -> str:
    if claim.observed is None:
        return ""
    seen = f"{claim.observed:.4g}"
    if claim.quantity == "agreement":
        return f" (A search has refuted it for all but {100 * claim.observed:.4g}%.)"
    return f" (Found by a search: {seen}.)" if proof else f" (In the draws: {100 * claim.observed:.4g}%.)"


def _facts(found: Statement) -> Iterator[tuple[str, str]]:
    yield "domain", found.domain.text
    yield "input bounds", str(found.domain.input_bounds)
    if found.domain.mean:
        yield "normalised by", f"mean {list(found.domain.mean)}, std {list(found.domain.std)}"
    if found.domain.digest:
        yield "inputs (SHA-256)", found.domain.digest
    if found.margin is None:
        yield "declared margin", "none"
    else:
        yield "declared margin", f"{found.margin.drift:g} (change of an output): {found.margin.text}"
    yield "method", f"{found.method}: {found.method_text}"
    yield "holds for", found.arithmetic.text
    if (measured := found.arithmetic.measured) is not None and measured.pruned is not None:
        yield (
            f"{measured.dtype} beside float64",
            f"outputs of the pruned model differ by {measured.pruned:.3g} at most on {measured.draws:,} "
            "inputs (measured, no bound)",
        )
    for name, model in (("original", found.original), ("pruned model", found.pruned)):
        if model.file:
            yield f"{name}, file", f"{model.file}, SHA-256 {model.sha256}"
        yield f"{name}, tensors (SHA-256)", model.fingerprint.tensors
        yield f"{name}, ops (SHA-256)", model.fingerprint.ops
    if found.seed is not None:
        drawn = "drawn by the system after both models were fixed"
        yield "seed", f"{found.seed}, {drawn if found.seed_from == 'system' else 'given by the caller'}"
    yield "made with", "; ".join(f"{name} {version}" for name, version in found.versions.items())
    yield "date", found.date or "not recorded"
    if found.command:
        yield "command", found.command


def _safe(text: str) -> str:
    """As plain text in Markdown and HTML, on one line."""
    line = " ".join(printable(text).split())
    return "".join(f"\\{c}" if c in "\\`*_[]|#~!" else c for c in escape(line, quote=False))


def _down(share: float) -> str:
    """A share in percent, rounded down."""
    return f"{int(share * 10_000) / 100:g}"
