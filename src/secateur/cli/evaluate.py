"""`secateur evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

from typer import Option

import secateur
from secateur.cli.names import Corruption, Head, Loss, Norm, Runtime, listed
from secateur.cli.options import (
    COMMON,
    AsJson,
    Debug,
    Device,
    HeadOption,
    InputBounds,
    Mean,
    Model,
    Normalize,
    Seed,
    Std,
    Weights,
)
from secateur.cli.printing import print_json, print_table, say
from secateur.errors import InputError
from secateur.report.tables import classes_table, evaluation_table

if TYPE_CHECKING:
    from secateur import decisions
    from secateur.evaluate.attacks import Attack, losses, norms
    from secateur.formats import format as formats

ATTACKS = "Adversarial attacks (accuracy or agreement that is left)"
CORRUPTIONS = "Corruptions"
LATENCY = "Latency"

# --- common -------------------------------------------------------------------------------------------------

Data = Annotated[
    Path,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help="Images to measure on: a folder, an .npy file, or an .npz file with the array images (uint8, or "
        "floats in "
        "the range of --input-bounds) and, if there are any, labels (class numbers). Without labels, give "
        "--original.",
    ),
]
Original = Annotated[
    str | None,
    Option(
        metavar="MODEL",
        rich_help_panel=COMMON,
        help="Model before pruning, in any form that MODEL has. Adds its results for comparison, and "
        "agreement: the "
        "share of images that both models predict alike. Needed if --data holds no labels.",
    ),
]
OriginalWeights = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help="Weights for --original, a .safetensors file, if that is package.module:function.",
    ),
]
Samples = Annotated[
    int | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Number of images to use, from the first of --data. Default: all. Attacks are slow: try 1000.",
    ),
]
TopK = Annotated[
    list[int] | None,
    Option(
        metavar="K",
        rich_help_panel=COMMON,
        help="Count a prediction as right if the label is among the K largest outputs. Repeatable. Default: "
        "1.",
    ),
]
PerClass = Annotated[
    bool, Option("--per-class", rich_help_panel=COMMON, help="Also show the accuracy of each class.")
]
BatchSize = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Images that are run at a time. Lower it if memory runs out.",
    ),
]

# --- attacks, corruptions, latency --------------------------------------------------------------------------

_RADIUS = (
    "Radius (how far a pixel may move, in the units of --input-bounds; see --norm), e.g. 0.01. Repeatable."
)
Fgsm = Annotated[
    list[float] | None,
    Option(
        metavar="RADIUS", rich_help_panel=ATTACKS, help=f"FGSM: one gradient step; fast and weak. {_RADIUS}"
    ),
]
Pgd = Annotated[
    list[float] | None,
    Option(metavar="RADIUS", rich_help_panel=ATTACKS, help="PGD: --pgd-steps gradient steps. Repeatable."),
]
PgdSteps = Annotated[
    int,
    Option(
        metavar="NUMBER", rich_help_panel=ATTACKS, help="Gradient steps of PGD. More is stronger and slower."
    ),
]
Apgd = Annotated[
    list[float] | None,
    Option(
        metavar="RADIUS",
        rich_help_panel=ATTACKS,
        help="APGD: 100 gradient steps of a size that adapts; stronger than PGD. Repeatable.",
    ),
]
AutoAttack = Annotated[
    list[float] | None,
    Option(
        "--autoattack",
        metavar="RADIUS",
        rich_help_panel=ATTACKS,
        help="AutoAttack, the standard set of four attacks. Very slow. Needs: pip install pyautoattack. "
        "Repeatable.",
    ),
]
NormOption = Annotated[
    Norm,
    Option(
        metavar="NAME",
        rich_help_panel=ATTACKS,
        help="Norm in which the radius is measured. linf: each pixel by itself; l2: all pixels together.",
    ),
]
LossOption = Annotated[
    Loss,
    Option(
        metavar="NAME",
        rich_help_panel=ATTACKS,
        help="Loss that PGD and APGD increase. ce: cross-entropy; margin: of the logits; dlr: the margin, "
        "rescaled (3 "
        "classes or more).",
    ),
]
Restarts = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=ATTACKS,
        help="Runs of PGD and APGD from different random starts; the worst counts.",
    ),
]
CorruptionOption = Annotated[
    list[str] | None,
    Option(
        "--corruption",
        metavar="KIND[:STRENGTH]",
        rich_help_panel=CORRUPTIONS,
        help=f"Accuracy on corrupted images: {listed(Corruption)}. With a strength, e.g. "
        "gaussian_noise:0.1 (share of the input range; blur: pixels; contrast: share that is lost), else at "
        "three "
        "strengths. Repeatable.",
    ),
]
Latency = Annotated[
    bool,
    Option(
        rich_help_panel=LATENCY,
        help="Measure the time for a batch of --batch-size images, of both models in turns.",
    ),
]
RuntimeOption = Annotated[
    Runtime | None,
    Option(
        "--runtime",
        metavar="NAME",
        rich_help_panel=LATENCY,
        help=f"Runtime that is timed: {listed(Runtime)}. Default: onnxruntime for .onnx files, else torch.",
    ),
]


def evaluate_command(
    model: Model,
    # common
    data: Data,
    original: Original = None,
    samples: Samples = None,
    top_k: TopK = None,
    per_class: PerClass = False,
    batch_size: BatchSize = 256,
    weights: Weights = None,
    original_weights: OriginalWeights = None,
    # inputs of the model
    input_bounds: InputBounds = None,
    mean: Mean = None,
    std: Std = None,
    normalize: Normalize = None,
    head: HeadOption = Head.auto,
    # attacks
    fgsm: Fgsm = None,
    pgd: Pgd = None,
    pgd_steps: PgdSteps = 20,
    apgd: Apgd = None,
    autoattack: AutoAttack = None,
    norm: NormOption = Norm.linf,
    loss: LossOption = Loss.ce,
    restarts: Restarts = 1,
    # corruptions, latency
    corruption: CorruptionOption = None,
    latency: Latency = False,
    runtime: RuntimeOption = None,
    # output and other
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Measure accuracy, robustness, size and latency on images; without labels, agreement with the original.

    Takes any classifier, pruned or not. With --original, the model before pruning is measured beside it.
    """
    from secateur.cli.reading import data_from, inputs_from, model_from

    if samples is not None and samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")
    ball, climbed = cast("norms.Norm", norm.value), cast("losses.Loss", loss.value)
    attacks: list[Attack] = [secateur.FGSM(eps, ball) for eps in fgsm or ()]
    attacks += [
        secateur.PGD(eps, steps=pgd_steps, restarts=restarts, seed=seed, norm=ball, loss=climbed)
        for eps in pgd or ()
    ]
    attacks += [secateur.APGD(eps, ball, climbed, restarts=restarts, seed=seed) for eps in apgd or ()]
    attacks += [secateur.AutoAttack(eps, ball, seed=seed) for eps in autoattack or ()]
    given = inputs_from(original or model, input_bounds, mean, std, normalize)
    loaded = model_from(model, weights)
    arrays = data_from(data, loaded, given, samples)
    if "labels" not in arrays and original is None:
        raise InputError(
            f"{data} holds no labels; give --original, the model before pruning, or an .npz file with the "
            "arrays "
            "images and labels (sub-folders are not taken for labels)"
        )
    report = secateur.evaluate(
        loaded,
        arrays["images"],
        arrays.get("labels"),
        original=model_from(original, original_weights) if original else None,
        attacks=attacks,
        corruptions=[c for text in corruption or () for c in _corruptions(text, seed)],
        top_k=top_k or (1,),
        input_bounds=given.input_bounds,
        mean=given.mean or None,
        std=given.std or None,
        batch_size=batch_size,
        device=device,
        head=cast("decisions.Head", head.value),
        latency=latency,
        runtime=cast("formats.Runtime", runtime.value) if runtime else None,
        progress=True,
    )
    _print(report, per_class, as_json)


def _corruptions(text: str, seed: int) -> tuple[secateur.Corruption, ...]:
    """KIND for its three severities, or KIND:STRENGTH."""
    from secateur.evaluate.corruptions import severities

    kind, colon, strength = text.partition(":")
    if not colon:
        return severities(kind, seed)
    try:
        number = float(strength)
    except ValueError:
        raise InputError(f"--corruption {text}: write the strength as a number, e.g. {kind}:0.1") from None
    return (secateur.Corruption(kind, number, seed),)


def _print(report: secateur.Evaluation, per_class: bool, as_json: bool) -> None:
    for warning in report.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    print_table(*evaluation_table(report))
    if per_class:
        print_table(*classes_table(report))
