"""`secateur certify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from typer import Argument, Option

import secateur
from secateur.cli.names import Bounds, Head
from secateur.cli.options import (
    COMMON,
    IMAGES,
    MODEL_FILE,
    OUTPUT,
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
    weights_of,
)
from secateur.cli.printing import print_json, print_result, print_table
from secateur.cli.report import ReportFile, report_outputs, say_written, write_reports
from secateur.errors import InputError
from secateur.report.tables import certificate_table

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from secateur import decisions
    from secateur.certify.certificate import Method
    from secateur.inputs import InputSpec

Pruned = Annotated[
    str,
    Argument(
        metavar="PRUNED",
        help=f"Pruned form of MODEL: {MODEL_FILE}. Other models are refused.",
    ),
]

# --- common -------------------------------------------------------------------------------------------------

Data = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help=f"Images to prove something about: {IMAGES}; needs --eps. With the array labels too (class "
        "numbers), only correctly classified images count as stable. Default: the proof is about every input "
        "in --input-bounds.",
    ),
]
Eps = Annotated[
    float | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Radius of the L∞ ball around each image of --data: how far each pixel may move, in the units "
        "of --input-bounds, e.g. 0.01. Wide balls give weak bounds.",
    ),
]
Samples = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Number of images to use, from the first of --data. An image can take up to a minute.",
    ),
]
MethodOption = Annotated[
    Bounds,
    Option(
        "--method",
        metavar="NAME",
        rich_help_panel=COMMON,
        help="How bounds are computed. linear: linear bounds on both models together, tighter; interval: "
        "interval arithmetic, much faster and looser.",
    ),
]
AttackSteps = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Steps of a gradient search for real inputs with a large change, to compare the proved bound "
        "with. 0: no search.",
    ),
]
Check = Annotated[
    Path | None,
    Option(
        "--check",
        metavar="CERTIFICATE",
        rich_help_panel=COMMON,
        help="Check that an existing certificate (.json) is about MODEL, PRUNED and the images of --data, "
        "instead of making one. Radius, bounds and normalisation are those of the certificate.",
    ),
]
Prove = Annotated[
    bool,
    Option(
        "--prove",
        rich_help_panel=COMMON,
        help="With --check: compute all bounds again, too, and compare. Takes as long as making the "
        "certificate did.",
    ),
]
PrunedWeights = Annotated[Path | None, weights_of("PRUNED")]

# --- output and other ---------------------------------------------------------------------------------------

CertificateFile = Annotated[
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="PATH",
        rich_help_panel=OUTPUT,
        help="File for the certificate, a .json file. Default: not written.",
    ),
]
Vnnlib = Annotated[
    Path | None,
    Option(
        metavar="PREFIX",
        rich_help_panel=OUTPUT,
        help="Write the claim as a task for other verifiers: PREFIX.onnx and PREFIX.vnnlib (VNN-LIB 1.0). "
        "One claim only: without --data, or with --samples 1. Needs the packages onnx and onnxscript.",
    ),
]


def certify_command(
    original: Model,
    pruned: Pruned,
    # common
    data: Data = None,
    eps: Eps = None,
    samples: Samples = 100,
    method: MethodOption = Bounds.linear,
    attack_steps: AttackSteps = 40,
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
    # output and other
    output: CertificateFile = None,
    vnnlib: Vnnlib = None,
    report: ReportFile = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    debug: Debug = False,
) -> None:
    """Prove how far the outputs of a pruned model can be from those of its original.

    The bounds hold for every input within --eps of the images of --data, or for every input in
    --input-bounds.
    """
    if check is not None:
        fixed = (eps, output, vnnlib, report, input_bounds, mean, std, normalize)
        if any(value is not None for value in fixed):
            raise InputError(
                "--check: radius, bounds and normalisation are those of the certificate, and nothing is "
                "written; leave --eps, --input-bounds, --mean, --std, --normalize, --output, --vnnlib and "
                "--report out"
            )
        models = (original, weights), (pruned, pruned_weights)
        _check(check, *models, data, example_shape, prove, as_json)
        return
    _check_usage(data, eps, samples, prove)
    _check_files(original, pruned, (weights, pruned_weights, data), output, vnnlib, report, overwrite)

    from dataclasses import replace

    from secateur.certify.vnnlib import write_claim
    from secateur.cli.reading import inputs_from, model_from
    from secateur.files import written_together
    from secateur.graph.example import tensors_in
    from secateur.report.page.from_certificate import certificate_facts

    given = inputs_from(original, input_bounds, mean, std, normalize, example_shape)
    loaded, smaller = model_from(original, weights), model_from(pruned, pruned_weights)
    images, labels = _images(data, loaded, given, samples)
    example = _example(images, loaded, given)
    certificate = secateur.certify(
        loaded,
        smaller,
        example,
        input_bounds=given.input_bounds,
        mean=given.mean or None,
        std=given.std or None,
        inputs=images,
        indices=None if images is None else range(len(images)),
        eps=eps,
        labels=labels,
        head=cast("decisions.Head", head.value),
        method=cast("Method", method.value),
        attack_steps=attack_steps,
        seed=seed,
        progress=True,
    )
    with written_together():
        if output is not None:
            certificate.save(output)
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


def _check_usage(data: Path | None, eps: float | None, samples: int, prove: bool) -> None:
    if prove:
        raise InputError("--prove goes with --check CERTIFICATE")
    if (data is None) != (eps is None):
        raise InputError(
            "--data and --eps belong together; without them, the certificate is about the whole input box"
        )
    if samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")


def _check_files(
    original: str,
    pruned: str,
    more: tuple[Path | None, ...],
    output: Path | None,
    vnnlib: Path | None,
    report: Path | None,
    overwrite: bool,
) -> None:
    """What is written is none of the files that are read."""
    from secateur import outputs

    writes = [] if output is None else [outputs.Output("--output", output, outputs.CERTIFICATE)]
    writes += [] if vnnlib is None else outputs.claim_outputs(vnnlib)
    writes += report_outputs(report)
    outputs.check_outputs(
        outputs.model_files(original, *outputs.model_files(pruned), *more), writes, overwrite
    )


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


def _print(certificate: secateur.Certificate, as_json: bool) -> None:
    if as_json:
        print_json(certificate.model_dump(mode="json"))
        return
    print_table(*certificate_table(certificate))
    bounds = f"{certificate.method} bounds, {certificate.dtype}, rounded {certificate.rounding}"
    print_result(f"{bounds}; {certificate.seconds:.1f} s")
    if certificate.undecided:
        print_result(f"no decision: {certificate.undecided}; the claim is about drift alone")
    elif certificate.agreement is not None:
        print_result(f"decisions: the outputs were taken for {certificate.head} (--head)")
