"""`secateur certify`."""

from __future__ import annotations

import inspect
import shlex
import sys
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import secateur
from secateur.cli.certify_options import (
    MOST_SAMPLES,
    ArithmeticOption,
    AttackSteps,
    Budget,
    CertificateFile,
    Check,
    Confidence,
    Data,
    DistributionOption,
    DrawSeed,
    Each,
    Eps,
    Margin,
    MethodOption,
    NormOption,
    Prove,
    Pruned,
    PrunedWeights,
    Rate,
    Samples,
    StatementFile,
    SurrogateOption,
    Vnnlib,
)
from secateur.cli.names import Bounds, Distribution, Head, Independent, Norm, Numbers
from secateur.cli.options import (
    AsJson,
    Debug,
    HeadOption,
    InputBounds,
    Mean,
    Model,
    Normalize,
    Overwrite,
    Seed,
    Shapes,
    Std,
    Weights,
)
from secateur.cli.printing import print_json, print_result, print_table
from secateur.cli.report import ReportFile, report_outputs, say_written, write_reports
from secateur.errors import InputError
from secateur.report.tables import arithmetic_lines, certificate_table, sampled_table

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from secateur import decisions, outputs
    from secateur.certify.certificate import Method
    from secateur.certify.inference import Arithmetic
    from secateur.inputs import InputSpec


def certify_command(
    original: Model,
    pruned: Pruned,
    # common
    data: Data = None,
    eps: Eps = None,
    samples: Samples = None,
    method: MethodOption = Bounds.linear,
    arithmetic: ArithmeticOption = Numbers.auto,
    attack_steps: AttackSteps = 40,
    budget: Budget = None,
    margin: Margin = None,
    check: Check = None,
    prove: Prove = False,
    weights: Weights = None,
    pruned_weights: PrunedWeights = None,
    # inputs of the model
    example_shape: Shapes = None,
    input_bounds: InputBounds = None,
    mean: Mean = None,
    std: Std = None,
    normalize: Normalize = None,
    head: HeadOption = Head.auto,
    # statistics
    confidence: Confidence = None,
    distribution: DistributionOption = Distribution.ball,
    rate: Rate = 0.001,
    norm: NormOption = Norm.linf,
    each: Each = False,
    surrogate: SurrogateOption = Independent.shapes,
    draw_seed: DrawSeed = None,
    # output and other
    output: CertificateFile = None,
    statement: StatementFile = None,
    vnnlib: Vnnlib = None,
    report: ReportFile = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Prove how far the outputs of a pruned model can be from those of its original.

    The bounds hold for every input within --eps of the images of --data, or for every input in
    --input-bounds. With --confidence, nothing is proved: random inputs bound how often predictions change.
    """
    statistics = _Statistics(distribution.value, rate, norm.value, each, surrogate.value, draw_seed)
    if check is not None:
        given_arithmetic = None if arithmetic == Numbers.auto else arithmetic
        fixed = (eps, budget, output, vnnlib, report, input_bounds, mean, std, normalize, confidence)
        if any(value is not None for value in (*fixed, given_arithmetic)):
            raise InputError(
                "--check: radius, bounds, normalisation and arithmetic are those of the certificate, which "
                "is a proof, and nothing is written; leave --eps, --budget, --arithmetic, --input-bounds, "
                "--mean, --std, --normalize, --confidence, --output, --vnnlib and --report out"
            )
        models = (original, weights), (pruned, pruned_weights)
        _check(check, *models, data, example_shape, prove, as_json)
        return
    if confidence is None:
        statistics.check_unused()
        _check_usage(data, eps, samples, prove)
    else:
        of_proofs: dict[str, object] = {
            "--prove": prove,
            "--vnnlib": vnnlib,
            "--budget": budget,
            "--report": report,
            "--arithmetic": arithmetic != Numbers.auto,
        }
        _check_statistics(distribution, data, eps, samples, of_proofs)
    sampled = confidence is not None
    writes = [*_outputs(output, statement, vnnlib, sampled), *report_outputs(report)]
    _check_files(original, pruned, (weights, pruned_weights, data), writes, overwrite)

    from secateur.certify.vnnlib import write_claim
    from secateur.cli.reading import inputs_from, measured_from, model_from
    from secateur.files import written_together
    from secateur.graph.example import tensors_in
    from secateur.page.from_certificate import certificate_facts

    given = inputs_from(original, input_bounds, mean, std, normalize, example_shape)
    reader = measured_from if sampled else _proved_from
    loaded, smaller = model_from(original, weights), reader(pruned, pruned_weights)
    limit = samples or (None if sampled and distribution == Distribution.data else MOST_SAMPLES)
    images, labels = _images(data, loaded, given, limit)
    example = _example(images, loaded, given)
    settings: dict[str, Any] = {
        "input_bounds": given.input_bounds,
        "mean": given.mean or None,
        "std": given.std or None,
        "inputs": images,
        "indices": None if images is None else range(len(images)),
        "eps": eps,
        "head": cast("decisions.Head", head.value),
    }
    if confidence is not None:
        found = secateur.certify_by_sampling(
            loaded,
            smaller,
            example,
            confidence=confidence,
            margin=margin,
            **statistics.settings(),
            **settings,
            progress=True,
        )
        with written_together():
            _save(found, output, statement, None, original, pruned)
        _print_sampled(found, as_json)
        return
    certificate = secateur.certify(
        loaded,
        smaller,
        example,
        **settings,
        labels=labels,
        method=cast("Method", method.value),
        arithmetic=cast("Arithmetic", arithmetic.value),
        attack_steps=attack_steps,
        budget=budget,
        seed=seed,
        progress=True,
    )
    with written_together():
        _save(certificate, output, statement, margin, original, pruned)
        if vnnlib is not None:
            loaded, smaller = given.wrapped(loaded), given.wrapped(smaller)
            write_claim(vnnlib, loaded, smaller, tuple(tensors_in(example)), certificate, images)
        if report is not None:
            write_reports(
                [replace(certificate_facts(certificate, Path(pruned).name), settings={"seed": str(seed)})],
                report,
            )
    _print(certificate, as_json)
    if not as_json:
        say_written(report)


@dataclass(frozen=True)
class _Statistics:
    """The options that go with --confidence."""

    distribution: Any
    rate: float
    norm: Any
    each: bool
    surrogate: str
    draw_seed: int | None

    def settings(self) -> dict[str, Any]:
        """For `certify_by_sampling`."""
        return asdict(self)

    def check_unused(self) -> None:
        """Raise `InputError` for an option that was given without --confidence."""
        defaults = inspect.signature(certify_command).parameters
        for field in fields(self):
            if getattr(self, field.name) != defaults[field.name].default:
                option = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{option} goes with --confidence, for statistics in place of a proof")


def _save(
    found: secateur.Certificate | secateur.StatisticalCertificate,
    output: Path | None,
    statement: Path | None,
    margin: float | None,
    original: str,
    pruned: str,
) -> None:
    """Write the certificate and the statement, where these are wanted."""
    if output is not None:
        found.save(output)
    if statement is not None:
        command = shlex.join(["secateur", *sys.argv[1:]])
        secateur.equivalence_statement(
            found, margin=margin, original=original, pruned=pruned, command=command
        ).save(statement)


def _check_usage(data: Path | None, eps: float | None, samples: int | None, prove: bool) -> None:
    if prove:
        raise InputError("--prove goes with --check CERTIFICATE")
    if (data is None) != (eps is None):
        raise InputError(
            "--data and --eps belong together; without them, the certificate is about the whole input box"
        )
    _check_samples(samples)


def _check_samples(samples: int | None) -> None:
    if samples is not None and samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")


def _check_statistics(
    distribution: Distribution,
    data: Path | None,
    eps: float | None,
    samples: int | None,
    of_proofs: dict[str, object],
) -> None:
    for option in (name for name, value in of_proofs.items() if value):
        raise InputError(f"{option} is about proofs, and --confidence asks for statistics; leave one out")
    needs = {
        Distribution.ball: ("--data and --eps", data is not None and eps is not None),
        Distribution.data: ("--data, and no --eps", data is not None and eps is None),
        Distribution.surrogates: ("neither --data nor --eps", data is None and eps is None),
    }
    wanted, given = needs[distribution]
    if not given:
        raise InputError(f"--distribution {distribution.value} takes {wanted}")
    _check_samples(samples)


def _outputs(
    output: Path | None, statement: Path | None, vnnlib: Path | None, sampled: bool
) -> list[outputs.Output]:
    from secateur import outputs

    kind = outputs.SAMPLED if sampled else outputs.CERTIFICATE
    writes = [] if output is None else [outputs.Output("--output", output, kind)]
    writes += [] if statement is None else [outputs.Output("--statement", statement, outputs.STATEMENT)]
    return writes + ([] if vnnlib is None else outputs.claim_outputs(vnnlib))


def _check_files(
    original: str,
    pruned: str,
    more: tuple[Path | None, ...],
    writes: list[outputs.Output],
    overwrite: bool,
) -> None:
    """What is written is none of the files that are read."""
    from secateur import outputs

    outputs.check_outputs(
        outputs.model_files(original, *outputs.model_files(pruned), *more), writes, overwrite
    )


def _proved_from(source: str, weights: Path | None) -> nn.Module | ExportedProgram:
    """A model about which something is to be proved."""
    from secateur.cli.reading import model_from
    from secateur.formats.onnx.read import QuantizedFileError

    try:
        return model_from(source, weights)
    except QuantizedFileError as error:
        raise InputError(
            f"{source} is quantised, and nothing is proved of quantised models; --confidence runs it as it is"
        ) from error


def _images(
    data: Path | None, model: nn.Module | ExportedProgram, given: InputSpec, limit: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """The first images of the data and their labels, where there are any."""
    from secateur.cli.reading import data_from

    if data is None:
        return None, None
    arrays = data_from(data, model, given, limit)
    return arrays["images"], arrays.get("labels")


def _example(images: Tensor | None, model: nn.Module | ExportedProgram, given: InputSpec) -> Any:
    from secateur.cli.reading import example_from

    known = images is not None and not given.example_shape
    return (images[:2],) if known and images is not None else example_from(model, given)


def _check(
    path: Path,
    original: tuple[str, Path | None],
    pruned: tuple[str, Path | None],
    data: Path | None,
    shapes: list[str] | None,
    prove: bool,
    as_json: bool,
) -> None:
    """Check the certificate in a file; each model comes with its weights."""
    from secateur.certify.checking import check_certificate
    from secateur.cli.reading import inputs_from, model_from

    given = inputs_from(original[0], shapes=shapes)
    first, second = model_from(*original), model_from(*pruned)
    certificate = secateur.Certificate.load(path)
    about = certificate.input_set
    given = given.model_copy(update={"input_bounds": tuple(about.input_bounds)})
    rows = about.indices
    needed = about.inputs if rows is None else max(rows, default=0) + 1
    images, labels = _images(data, first, given, needed)
    if images is not None and rows is not None and needed is not None:
        if needed > len(images):
            raise InputError(f"{data} holds {len(images):,} images; the certificate needs {needed:,}")
        images, labels = images[list(rows)], None if labels is None else labels[list(rows)]
    labels = labels if about.labels else None
    example = _example(images, first, given)
    check_certificate(
        certificate, first, second, example, inputs=images, labels=labels, prove=prove, progress=True
    )
    if as_json:
        print_json({"certificate": str(path), "belongs": True, "proved": prove})
        return
    print_table(*certificate_table(certificate))
    print_result(f"{path} is about these models{'' if images is None else ' and inputs'}")
    print_result(
        "its bounds and shares were proved again; what its search found was not looked at"
        if prove
        else "its bounds were not computed again; --prove does that"
    )


def _print_sampled(found: secateur.StatisticalCertificate, as_json: bool) -> None:
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    print_table(*sampled_table(found))
    each = f", {found.claims} claims ({found.correction})"
    drawn = "drawn after both models were read" if found.seed_from == "system" else "given"
    print_result(f"statistics, no proof: inputs {found.distribution.described}{each}")
    how = found.measured_rounding
    run_by = "onnxruntime" if how.runtime == "onnxruntime" else f"torch, {how.dtype} on {how.device}"
    print_result(f"pruned model run by {run_by}; seed {found.seed}, {drawn}; {found.seconds:.1f} s")
    if found.undecided:
        print_result(f"no decision: {found.undecided}; the claims are about drift alone")
    else:
        print_result(f"decisions: the outputs were taken for {found.head} (--head)")


def _print(certificate: secateur.Certificate, as_json: bool) -> None:
    if as_json:
        print_json(certificate.model_dump(mode="json"))
        return
    print_table(*certificate_table(certificate))
    bounds = f"{certificate.method} bounds, {certificate.dtype}, rounded {certificate.rounding}"
    print_result(f"{bounds}; {certificate.seconds:.1f} s")
    for line in arithmetic_lines(certificate):
        print_result(line)
    if certificate.undecided:
        print_result(f"no decision: {certificate.undecided}; the claim is about drift alone")
    elif certificate.agreement is not None:
        print_result(f"decisions: the outputs were taken for {certificate.head} (--head)")
