"""`secateur evaluate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from typer import Option

import secateur
from secateur.cli.command import Record, extra_help
from secateur.cli.names import Head, Loss, Norm, Runtime, listed
from secateur.cli.options import (
    COMMON,
    IMAGES,
    AsJson,
    Debug,
    Device,
    HeadOption,
    InputBounds,
    Mean,
    Model,
    Normalize,
    Overwrite,
    Seed,
    Std,
    TokenizerFile,
    Weights,
    weights_of,
)
from secateur.cli.printing import print_json, print_table, say
from secateur.cli.report import ReportFile, report_outputs, say_written, write_reports
from secateur.errors import InputError
from secateur.evaluate.attacks import ATTACKS, Attack, attack_from
from secateur.evaluate.corruptions import CORRUPTIONS, Corruption, corruptions_from
from secateur.evaluate.options import described_options
from secateur.report.tables import classes_table, evaluation_table

if TYPE_CHECKING:
    from torch import Tensor

    from secateur import decisions
    from secateur.formats import format as formats
    from secateur.page.facts import Facts

ATTACK_PANEL = "Adversarial attacks (accuracy or agreement that is left)"
CORRUPTION_PANEL = "Corruptions"
LATENCY_PANEL = "Latency"

# --- common -------------------------------------------------------------------------------------------------

Data = Annotated[
    Path,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help=f"Images to measure on: {IMAGES} and, if there are any, labels (class numbers). Without "
        "labels, give --original. For a language model, a .txt file (see --tokenizer) or an .npy file of ids "
        "(sequences, tokens).",
    ),
]
Original = Annotated[
    str | None,
    Option(
        metavar="MODEL",
        rich_help_panel=COMMON,
        help="Model before pruning, in any form that MODEL has. Adds its results for comparison, and "
        "agreement: the share of images that both models predict alike. Needed if --data holds no labels.",
    ),
]
OriginalWeights = Annotated[Path | None, weights_of("--original")]
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

Length = Annotated[
    int | None,
    Option(
        metavar="NUMBER",
        min=2,
        rich_help_panel=COMMON,
        help="Tokens of a sequence into which a .txt file is cut. Default: as long as the model's own "
        "example, else 128.",
    ),
]

# --- attacks, corruptions, latency --------------------------------------------------------------------------


def _radii(key: str) -> Any:
    """An option that runs an attack at each of the given radii."""
    text = f"{ATTACKS[key].__name__}: {ATTACKS[key].summary}. Repeatable."
    return Option(f"--{key}", metavar="RADIUS", rich_help_panel=ATTACK_PANEL, help=text)


Fgsm = Annotated[list[str] | None, _radii("fgsm")]
Pgd = Annotated[list[str] | None, _radii("pgd")]
Apgd = Annotated[list[str] | None, _radii("apgd")]
AutoAttack = Annotated[list[str] | None, _radii("autoattack")]
AttackOption = Annotated[
    list[str] | None,
    Option(
        "--attack",
        metavar="NAME:FIELD=VALUE,…",
        rich_help_panel=ATTACK_PANEL,
        help="An attack with fields of its own (listed below), e.g. pgd:eps=8/255,steps=40. What is left "
        "out is as the options below say. Repeatable.",
    ),
]
PgdSteps = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=ATTACK_PANEL,
        help="Gradient steps of PGD. More is stronger and slower.",
    ),
]
NormOption = Annotated[
    Norm,
    Option(
        metavar="NAME",
        rich_help_panel=ATTACK_PANEL,
        help="Norm in which RADIUS is measured, in the units of --input-bounds. linf: how far each pixel "
        "may move; l2: all pixels together.",
    ),
]
LossOption = Annotated[
    Loss,
    Option(
        metavar="NAME",
        rich_help_panel=ATTACK_PANEL,
        help="Loss that PGD and APGD increase. ce: cross-entropy; margin: of the logits; dlr: the margin, "
        "rescaled (3 classes or more).",
    ),
]
Restarts = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=ATTACK_PANEL,
        help="Runs of PGD and APGD from different random starts; the worst counts.",
    ),
]
CorruptionOption = Annotated[
    list[str] | None,
    Option(
        "--corruption",
        metavar="KIND[:STRENGTH]",
        rich_help_panel=CORRUPTION_PANEL,
        help=f"Accuracy on corrupted images: {', '.join(CORRUPTIONS)}. With a strength, e.g. "
        f"{next(iter(CORRUPTIONS))}:0.1, else at three strengths (listed below). Repeatable.",
    ),
]
Latency = Annotated[
    bool,
    Option(
        rich_help_panel=LATENCY_PANEL,
        help="Measure the time for a batch of --batch-size images, of both models in turns; of a language "
        "model, for one sequence (prefill) and, where it keeps a cache, one more token (decode).",
    ),
]
RuntimeOption = Annotated[
    Runtime | None,
    Option(
        "--runtime",
        metavar="NAME",
        rich_help_panel=LATENCY_PANEL,
        help=f"Runtime that is timed: {listed(Runtime)}. Default: onnxruntime for .onnx files, else torch.",
    ),
]


def _attack_fields() -> Iterator[Record]:
    for key, kind in ATTACKS.items():
        yield key, f"{kind.__name__}: {kind.summary}."
        for name, text in described_options(kind):
            yield f"  {name}", f"{text[0].upper()}{text[1:]}"


def _strengths() -> Iterator[Record]:
    for name, kind in CORRUPTIONS.items():
        given = ", ".join(f"{strength:g}" for strength in kind.severities)
        yield name, f"{kind.strength.meaning.capitalize()}. Default: {given}."


@extra_help("Strengths of --corruption", tuple(_strengths()))
@extra_help("Fields of --attack", tuple(_attack_fields()))
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
    tokenizer: TokenizerFile = None,
    length: Length = None,
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
    attack: AttackOption = None,
    norm: NormOption = Norm.linf,
    loss: LossOption = Loss.ce,
    restarts: Restarts = 1,
    # corruptions, latency
    corruption: CorruptionOption = None,
    latency: Latency = False,
    runtime: RuntimeOption = None,
    # output and other
    report: ReportFile = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Measure accuracy, robustness, size and latency on images; without labels, agreement with the original.

    Takes any classifier, pruned or not, and any language model, of which it measures perplexity, next tokens
    and the divergence from the original on text. With --original, the model before pruning is measured beside
    it. Quantised .onnx files, and those in half precision, are run by onnxruntime as they are.
    """
    from secateur import outputs
    from secateur.cli.reading import data_from, inputs_from, measured_from, tokenizer_of

    if samples is not None and samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")
    if report is not None:
        outputs.check_outputs(
            outputs.model_files(
                model, *outputs.model_files(original or model), weights, original_weights, data
            ),
            report_outputs(report),
            overwrite,
        )
    radii = {"fgsm": fgsm, "pgd": pgd, "apgd": apgd, "autoattack": autoattack}
    shared = {"norm": norm.value, "loss": loss.value, "restarts": restarts, "seed": seed}
    attacks = _attacks(radii, attack or (), shared, pgd_steps)
    given = inputs_from(original or model, input_bounds, mean, std, normalize)
    loaded = measured_from(model, weights, bool(attacks))
    arrays = data_from(data, loaded, given, samples, tokenizer_of(original or model, tokenizer), length)
    if "labels" not in arrays and original is None and arrays["images"].is_floating_point():
        raise InputError(
            f"{data} holds no labels; give --original, the model before pruning, or an .npz file with the "
            "arrays images and labels (sub-folders are not taken for labels)"
        )
    found = secateur.evaluate(
        loaded,
        arrays["images"],
        arrays.get("labels"),
        original=measured_from(original, original_weights, bool(attacks)) if original else None,
        attacks=attacks,
        corruptions=_corruptions(corruption or (), seed),
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
    _print(found, per_class, as_json)
    if report is not None:
        write_reports([_facts(found, Path(model).name, arrays["images"], seed)], report)
        if not as_json:
            say_written(report)


def _facts(found: secateur.Evaluation, name: str, images: Tensor, seed: int) -> Facts:
    """What a report shows, with pictures of the inputs that moved most."""
    from secateur.page.from_evaluation import evaluation_facts
    from secateur.page.thumbnails import thumbnails
    from secateur.report.recipe import versions

    pictures = thumbnails(images, [row.number for row in found.moved_most])
    facts = evaluation_facts(found, name, pictures)
    return replace(facts, settings={**facts.settings, "seed": str(seed)}, versions=versions())


def _attacks(
    radii: Mapping[str, Sequence[str] | None], texts: Sequence[str], shared: Mapping[str, Any], pgd_steps: int
) -> list[Attack]:
    """The attacks that options name; fields that they leave out are as the other options say."""
    named = [(f"--{key} {eps}", f"{key}:{eps}") for key, given in radii.items() for eps in given or ()]
    named += [(f"--attack {text}", text) for text in texts]
    found = []
    for option, text in named:
        steps = {"steps": pgd_steps} if text.partition(":")[0] == "pgd" else {}
        try:
            found.append(attack_from(text, **shared, **steps))
        except InputError as error:
            raise InputError(f"{option}: {error}") from error
    return found


def _corruptions(texts: Sequence[str], seed: int) -> list[Corruption]:
    try:
        return [corruption for text in texts for corruption in corruptions_from(text, seed)]
    except InputError as error:
        raise InputError(f"--corruption: {error}") from error


def _print(report: secateur.Evaluation, per_class: bool, as_json: bool) -> None:
    for warning in report.warnings:
        say(f"warning: {warning}")
    if as_json:
        print_json(report.model_dump(mode="json"))
        return
    print_table(*evaluation_table(report))
    if per_class:
        print_table(*classes_table(report))
