"""`secateur search`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

import secateur
from secateur.cli.exit_codes import TARGET_MISSED
from secateur.cli.names import Attention, Head, Objective, Sampler, Surrogate
from secateur.cli.options import (
    COMMON,
    OUTPUT,
    AsJson,
    Calibration,
    Debug,
    Device,
    HeadOption,
    InputBounds,
    Mean,
    Memory,
    Model,
    Normalize,
    Seed,
    Shapes,
    Std,
    SurrogateOption,
    TokenizerFile,
    Weights,
)
from secateur.cli.printing import print_json, print_result, print_table
from secateur.cli.prune import AttentionOption, Ignore, MaxLoss, Samples, UniformLayers, least_agreement
from secateur.cli.quantize import SCHEMES, labelled
from secateur.errors import InputError
from secateur.evaluate.attacks import Attack, attack_from

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

WANTED = "Budgets (the pick keeps all of them)"
FRONT = "Further figures (of the networks of the front that keep the budgets)"
SPACE = "Choices (separated by commas; with several, Optuna suggests trials)"

Folder = Annotated[
    Path,
    Option(
        "--output",
        "-o",
        metavar="FOLDER",
        rich_help_panel=COMMON,
        help="Folder for the trials, the networks and the summary. It is made if need be. The same command "
        "goes on where it was interrupted, and measures nothing twice.",
    ),
]
ObjectiveOption = Annotated[
    Objective,
    Option(
        "--objective",
        metavar="NAME",
        rich_help_panel=COMMON,
        help="What to make small: params, macs, bytes, or latency (milliseconds for one sample, measured on "
        "this machine, so that two runs differ).",
    ),
]
MinAgreement = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=WANTED,
        help="Smallest share, from 0 to 1, of inputs on which the network gives the prediction of MODEL, "
        "e.g. 0.99. Measured on generated inputs, or a third of --calibration. Default: 0.98 if no budget is "
        "given.",
    ),
]
MaxDrift = Annotated[
    float | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=WANTED,
        help="Largest change of any output on these inputs, in the units of the outputs, e.g. 2.0.",
    ),
]
MinAccuracy = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=WANTED,
        help="Smallest accuracy on --data, from 0 to 1. The pick then depends on these labelled data, as the "
        "summary says; measure its accuracy on others.",
    ),
]
MinWorstClass = Annotated[
    float | None,
    Option(metavar="SHARE", rich_help_panel=WANTED, help="Smallest accuracy in every class of --data."),
]
MinRobustAccuracy = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=WANTED,
        help="Smallest share of --data that stays right under the worst --attack.",
    ),
]
MinRobustAgreement = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=WANTED,
        help="Smallest share of --data on which the prediction stays that of MODEL under the worst --attack.",
    ),
]
MinCertified = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=WANTED,
        help="Smallest share of predictions that --certified proves to stay those of MODEL.",
    ),
]
AttackOption = Annotated[
    list[str] | None,
    Option(
        "--attack",
        metavar="NAME:FIELD=VALUE,…",
        rich_help_panel=FRONT,
        help="An attack on --data, as for `secateur evaluate`, e.g. pgd:0.02 or pgd:eps=8/255,steps=40. "
        "Repeatable.",
    ),
]
Certified = Annotated[
    float | None,
    Option(
        metavar="RADIUS",
        rich_help_panel=FRONT,
        help="Prove, as `secateur certify` does, on which share of --data both networks agree all over the "
        "L∞ ball of this radius.",
    ),
]
CertifiedInputs = Annotated[
    int,
    Option(metavar="NUMBER", rich_help_panel=FRONT, help="How many of --data are certified, from the first."),
]
Data = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help="Images with labels, to report the accuracy of each network and of its worst class: an .npz "
        "file with the arrays images and labels. They choose nothing but by the budgets that name them.",
    ),
]
Methods = Annotated[
    str,
    Option(
        "--method",
        metavar="NAMES",
        rich_help_panel=SPACE,
        help="Methods, as for `secateur prune`, e.g. reconstruct,folding.",
    ),
]
Allocations = Annotated[
    str, Option("--allocation", metavar="NAMES", rich_help_panel=SPACE, help="uniform, global, or both.")
]
Roundings = Annotated[
    str,
    Option(
        "--round-to", metavar="NUMBERS", rich_help_panel=SPACE, help="As for `secateur prune`, e.g. auto,1,8."
    ),
]
Schemes = Annotated[
    str,
    Option(
        "--quantize",
        metavar="SCHEMES",
        rich_help_panel=SPACE,
        help=f"Schemes of `secateur quantize`, with none for float networks, e.g. none,int8. {SCHEMES} "
        "Networks are then written as .onnx.",
    ),
]
Trials = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=SPACE,
        help="How many to measure where there is more to choose than how much to remove; for that alone, "
        "seven are enough.",
    ),
]
SamplerOption = Annotated[
    Sampler,
    Option(
        "--sampler", metavar="NAME", rich_help_panel=SPACE, help="How Optuna suggests trials: tpe, nsga2."
    ),
]
Workers = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=OUTPUT,
        help="Processes that measure trials, each with its share of the processors and the memory of one "
        "run. The result does not depend on it.",
    ),
]
Engine = Annotated[
    str | None,
    Option(
        metavar="ADDRESS",
        rich_help_panel=OUTPUT,
        help="Cluster whose workers measure the trials: dask://host:8786, the scheduler of a Dask cluster; "
        "ray://host:10001, a Ray cluster; or ray://local. They need the same versions of all packages, and "
        "MODEL is sent to each once.",
    ),
]
Mlflow = Annotated[
    str | None,
    Option(
        "--mlflow",
        metavar="ADDRESS",
        rich_help_panel=OUTPUT,
        help="Log the result to MLflow as well: a tracking server, e.g. http://host:5000, or a folder. Needs "
        "the package mlflow-skinny.",
    ),
]
OverwriteFolder = Annotated[
    bool,
    Option(
        "--overwrite",
        rich_help_panel=OUTPUT,
        help="Begin anew in a folder that holds another search; its trials are lost.",
    ),
]


def search_command(
    model: Model,
    # common
    output: Folder,
    objective: ObjectiveOption = Objective.params,
    data: Data = None,
    ignore: Ignore = None,
    attention: AttentionOption = Attention.auto,
    uniform_layers: UniformLayers = False,
    weights: Weights = None,
    # budgets
    min_agreement: MinAgreement = None,
    max_loss: MaxLoss = None,
    max_drift: MaxDrift = None,
    min_accuracy: MinAccuracy = None,
    min_worst_class: MinWorstClass = None,
    min_robust_accuracy: MinRobustAccuracy = None,
    min_robust_agreement: MinRobustAgreement = None,
    min_certified: MinCertified = None,
    # further figures
    attack: AttackOption = None,
    certified: Certified = None,
    certified_inputs: CertifiedInputs = 20,
    # space
    method: Methods = "reconstruct",
    allocation: Allocations = "uniform",
    round_to: Roundings = "auto",
    quantize: Schemes = "none",
    trials: Trials = 24,
    sampler: SamplerOption = Sampler.tpe,
    # inputs of the model
    input_bounds: InputBounds = None,
    mean: Mean = None,
    std: Std = None,
    normalize: Normalize = None,
    head: HeadOption = Head.auto,
    example_shape: Shapes = None,
    tokenizer: TokenizerFile = None,
    # fidelity
    surrogate: SurrogateOption = Surrogate.auto,
    calibration: Calibration = None,
    samples: Samples = 2048,
    memory: Memory = None,
    # output and other
    workers: Workers = 1,
    engine: Engine = None,
    mlflow: Mlflow = None,
    overwrite: OverwriteFolder = False,
    as_json: AsJson = False,
    seed: Seed = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Find the smallest copy of a model that stays within a budget.

    Needs no training data and no retraining. Writes the network that is picked, the front of size against
    closeness to MODEL, a recipe for each, and a summary.
    """
    from secateur.cli.reading import inputs_from, tokenizer_of

    given = inputs_from(model, input_bounds, mean, std, normalize, example_shape)
    source, loaded, example = loaded_from(model, weights, given, workers)
    found = secateur.search(
        source,
        example,
        output=output,
        objective=objective.value,  # type: ignore[arg-type]
        min_agreement=least_agreement(max_loss, min_agreement),
        max_drift=max_drift,
        min_accuracy=min_accuracy,
        min_worst_class=min_worst_class,
        attacks=attacks_from(attack or (), seed),
        min_robust_accuracy=min_robust_accuracy,
        min_robust_agreement=min_robust_agreement,
        certified=certified,
        certified_inputs=certified_inputs,
        min_certified=min_certified,
        **labelled(data, loaded, given),
        method=values(method),
        allocation=values(allocation),
        round_to=[int(text) if text.isdecimal() else text for text in values(round_to)],
        quantize=values(quantize),
        trials=trials,
        sampler=sampler.value,  # type: ignore[arg-type]
        workers=workers,
        engine=engine,
        mlflow=mlflow,
        seed=seed,
        overwrite=overwrite,
        progress=True,
        ignore=ignore or (),
        attention=attention.value,
        uniform_layers=uniform_layers,
        tokenizer=tokenizer_of(model, tokenizer),
        **arguments_of(given, head, surrogate, calibration, samples, memory, device),
    )
    _print(found, as_json)
    if found.pick is None:
        raise Exit(TARGET_MISSED)


def attacks_from(texts: Sequence[str], seed: int) -> list[Attack]:
    """The attacks that --attack names, with the seed of the search where they leave out their own."""
    found = []
    for text in texts:
        try:
            found.append(attack_from(text, seed=seed))
        except InputError as error:
            raise InputError(f"--attack {text}: {error}") from error
    return found


def values(text: str) -> list[str]:
    """Values separated by commas."""
    return [part.strip() for part in text.split(",")]


def loaded_from(
    model: str, weights: Path | None, given: secateur.InputSpec, workers: int
) -> tuple[nn.Module | ExportedProgram | str, nn.Module | ExportedProgram, Any]:
    """What to search, the model itself, and its example; worker processes read a file for themselves."""
    from secateur.cli.reading import example_from, model_from

    loaded = model_from(model, weights)
    source = model if workers > 1 and os.path.exists(model) else loaded
    return source, loaded, example_from(loaded, given)


def arguments_of(
    given: secateur.InputSpec,
    head: Head,
    surrogate: Surrogate,
    calibration: Path | None,
    samples: int,
    memory: str | None,
    device: str | None,
) -> dict[str, Any]:
    """Arguments of `prune` that are the same in all trials."""
    return {
        "input_bounds": given.input_bounds,
        "mean": given.mean or None,
        "std": given.std or None,
        "normalize": given.normalize,
        "head": head.value,
        "surrogate": surrogate.value,
        "calibration": calibration,
        "samples": samples,
        "memory": memory,
        "device": device,
    }


def _print(found: secateur.SearchResult, as_json: bool) -> None:
    from secateur.search.result import front_table, lines

    if as_json:
        print_json({"output": str(found.folder), **found.summary.model_dump(mode="python")})
        return
    print_table(*front_table(found.summary))
    for line in lines(found.summary):
        print_result(line)
    print_result(f"wrote {found.folder / 'summary.md'} and the networks beside it")
