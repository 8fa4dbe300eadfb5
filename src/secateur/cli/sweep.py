"""`secateur sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Option

import secateur
from secateur.cli.names import Attention, Head, Surrogate
from secateur.cli.options import (
    COMMON,
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
    Shapes,
    Std,
    SurrogateOption,
    TokenizerFile,
    Weights,
)
from secateur.cli.printing import print_json, print_result, print_table
from secateur.cli.prune import AttentionOption, Ignore, Samples, UniformLayers
from secateur.cli.quantize import labelled
from secateur.cli.search import (
    Engine,
    Folder,
    Mlflow,
    OverwriteFolder,
    Workers,
    arguments_of,
    loaded_from,
    values,
)
from secateur.errors import InputError

Removals = Annotated[
    str,
    Option(
        "--remove",
        metavar="SHARES",
        rich_help_panel=COMMON,
        help="How much to remove, as for `secateur prune`, separated by commas, e.g. 30%,params=50%.",
    ),
]
Methods = Annotated[
    str,
    Option(
        "--method",
        metavar="NAMES",
        rich_help_panel=COMMON,
        help="Methods, as for `secateur prune`, separated by commas, e.g. reconstruct,folding.",
    ),
]
Allocations = Annotated[
    str, Option("--allocation", metavar="NAMES", rich_help_panel=COMMON, help="uniform, global, or both.")
]
Seeds = Annotated[
    str,
    Option(
        "--seed", metavar="NUMBERS", rich_help_panel=COMMON, help="Seeds, separated by commas, e.g. 0,1,2."
    ),
]
Data = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help="Images with labels, to report the accuracy of each network, and for nothing else: an .npz file "
        "with the arrays images and labels.",
    ),
]


def sweep_command(
    model: Model,
    # common
    output: Folder,
    method: Methods = "reconstruct",
    remove: Removals = "10%,25%,50%",
    allocation: Allocations = "uniform",
    seed: Seeds = "0",
    data: Data = None,
    ignore: Ignore = None,
    attention: AttentionOption = Attention.auto,
    uniform_layers: UniformLayers = False,
    weights: Weights = None,
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
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Prune a model in every combination of methods, shares and seeds, and print a table.

    Needs no training data and no retraining. The recipes are kept, so that `secateur replay` makes any of the
    networks.
    """
    from secateur.cli.reading import inputs_from, tokenizer_of
    from secateur.search.result import sweep_table

    given = inputs_from(model, input_bounds, mean, std, normalize, example_shape)
    source, loaded, example = loaded_from(model, weights, given, workers)
    found = secateur.sweep(
        source,
        example,
        output=output,
        method=values(method),
        remove=values(remove),
        allocation=values(allocation),
        seed=_seeds(seed),
        **labelled(data, loaded, given),
        workers=workers,
        engine=engine,
        mlflow=mlflow,
        overwrite=overwrite,
        progress=True,
        ignore=ignore or (),
        attention=attention.value,
        uniform_layers=uniform_layers,
        tokenizer=tokenizer_of(model, tokenizer),
        **arguments_of(given, head, surrogate, calibration, samples, memory, device),
    )
    if as_json:
        trials = [trial.model_dump(mode="python") for trial in found.trials]
        print_json({"output": str(output), "original": found.original.model_dump(), "trials": trials})
        return
    print_table(*sweep_table(found.trials, found.original))
    print_result(f"wrote {found.folder / 'summary.md'} and the recipes in {found.folder / 'trials'}")


def _seeds(text: str) -> list[int]:
    try:
        return [int(part) for part in values(text)]
    except ValueError:
        raise InputError(f"--seed {text}: give whole numbers, separated by commas") from None
