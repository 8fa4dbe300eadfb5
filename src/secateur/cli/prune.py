"""`secateur prune`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

import secateur
from secateur.amounts import amount, as_share
from secateur.cli.exit_codes import TARGET_MISSED
from secateur.cli.names import Allocation, Attention, Head, Method, Scheme, Surrogate
from secateur.cli.options import (
    COMMON,
    FIDELITY,
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
    ModelOutput,
    Normalize,
    Overwrite,
    Seed,
    Shapes,
    Std,
    SurrogateOption,
    TimeIt,
    TokenizerFile,
    Weights,
)
from secateur.cli.printing import collected_warnings, print_json, print_result, print_table, say
from secateur.cli.quantize import (
    SCHEMES,
    Data,
    as_plain,
    check_quantized_output,
    labelled,
    print_quantization,
    quantized_after,
)
from secateur.cli.report import ModelCard, ReportFile, report_outputs, say_written, write_reports
from secateur.errors import InputError, SecateurError
from secateur.formats.registry import by_suffix
from secateur.report.tables import next_steps, pruning_table

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from secateur.inputs import InputSpec
    from secateur.outputs import Output
    from secateur.page.facts import Facts
    from secateur.plan import Rounding

BUDGETS = "Budgets (pruning stops before it exceeds one, with exit code 3)"

# --- common -------------------------------------------------------------------------------------------------

Remove = Annotated[
    str | None,
    Option(
        metavar="SHARE",
        rich_help_panel=COMMON,
        help="How much to remove: 0.5 or 50% of the units (neurons, channels, attention heads) of every "
        "layer, size=50% (or params=50%) of all parameters, macs=50% of all multiply-accumulates, bytes=50% "
        "of the stored weights, latency=30% of the time of one sample, or all above a time, latency=3ms. "
        "Time is measured on this machine: in onnxruntime for an .onnx file, else in torch. "
        "Default: auto, which tries 10%, 25% and 50% of the units, says what each would lose, and takes the "
        "largest that keeps 98% of the predictions; `secateur search` looks closer. With budgets: 0.5, as "
        "far as they allow. With --method exact: all units that it finds.",
    ),
]
Faster = Annotated[
    str | None,
    Option(
        metavar="TIMES",
        rich_help_panel=COMMON,
        help="In place of --remove: by how much to divide the number of multiply-accumulates, e.g. 2x. How "
        "much faster the model becomes depends on the runtime, and is measured at the end.",
    ),
]
MethodOption = Annotated[
    str,  # installed packages may declare others
    Option(
        metavar="NAME",
        autocompletion=lambda: [*Method],
        rich_help_panel=COMMON,
        help="How to choose units and compensate for their removal. reconstruct (most accurate): remove the "
        "units whose removal changes the outputs least, and refit the layers that follow. exact: remove only "
        "units whose removal leaves the outputs unchanged. saliency, impact, stochastic: merge similar "
        "units. scale: remove units with the smallest weights, without compensation. folding, ridge, "
        "scaled_merging: published methods, for comparison.",
    ),
]
Ignore = Annotated[
    list[str] | None,
    Option(
        metavar="GLOB",
        rich_help_panel=COMMON,
        help="Layers that stay whole, as a glob over layer names, e.g. 'head.*'. Repeatable. `secateur "
        "inspect` lists the names; a glob that matches none is an error.",
    ),
]
RoundTo = Annotated[
    str,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Keep a multiple of this number of units in each layer, e.g. 8. 1: any number. auto: numbers of "
        "channels that runtimes compute fast; other numbers can make a smaller model slower.",
    ),
]

UniformLayers = Annotated[
    bool,
    Option(
        "--uniform-layers",
        rich_help_panel=COMMON,
        help="Remove equal numbers of units from layers of one role (the same name but for its number). Of a "
        "Hugging Face folder, remove only what its config.json can say, so that from_pretrained, and other "
        "programs that read such folders, load the result.",
    ),
]

QuantizeOption = Annotated[
    str | None,
    Option(
        "--quantize",
        metavar="SCHEME",
        autocompletion=lambda: [*Scheme],
        rich_help_panel=COMMON,
        help=f"Quantise the smaller model as well; -o must then end in .onnx. {SCHEMES} With "
        "--min-agreement, nodes that lose most stay in float until the quantised model keeps it, too.",
    ),
]

# --- fidelity -----------------------------------------------------------------------------------------------

Samples = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=FIDELITY,
        help="How many generated inputs, or inputs of --calibration, to use; fewer if they do not fit into "
        "memory. Fewer are faster and less accurate.",
    ),
]
Budget = Annotated[
    str | None,
    Option(
        metavar="TIME",
        rich_help_panel=FIDELITY,
        help="Time that the run may take, e.g. 5min: as many --samples are used as the estimate allows. "
        "Default: no "
        "limit.",
    ),
]
AllocationOption = Annotated[
    Allocation,
    Option(
        metavar="NAME",
        rich_help_panel=FIDELITY,
        help="uniform: remove the same share of every layer. global: remove more where this changes the "
        "outputs less.",
    ),
]
AttentionOption = Annotated[
    Attention,
    Option(
        metavar="NAME",
        rich_help_panel=COMMON,
        help="What leaves from attention. heads: whole heads. widths: of every head some dimensions of "
        "queries and keys, and of values. both: a share of either. auto: widths, but heads where "
        "--uniform-layers needs them.",
    ),
]
StreamsOption = Annotated[
    bool,
    Option(
        "--streams",
        rich_help_panel=COMMON,
        help="Also narrow the residual stream of a transformer: rotate it, cut the directions that matter "
        "least, and refit the layers that read it. Embeddings that are tied to the head become two tables.",
    ),
]
ParameterOption = Annotated[
    list[str] | None,
    Option(
        metavar="NAME=NUMBER",
        rich_help_panel=FIDELITY,
        help="Parameter of --method, e.g. ridge=0.05 for reconstruct. Repeatable. The error for an unknown "
        "name lists those of the method.",
    ),
]
Step = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=FIDELITY,
        help="Largest share of a layer to remove in one step, above 0 and up to 1; 1: all at once. Smaller "
        "is slower. Default: 1 for reconstruct without budgets, else 0.0625.",
    ),
]
Recursive = Annotated[
    bool,
    Option(
        rich_help_panel=FIDELITY,
        help="Whether one kept unit may absorb several others, or be removed later. With --no-recursive, "
        "methods that merge units remove at most half of a layer.",
    ),
]
ExactFirst = Annotated[
    bool,
    Option(
        "--exact-first",
        rich_help_panel=FIDELITY,
        help="First remove all units that --method exact finds. They count towards --remove, and may be more "
        "than it.",
    ),
]

# --- budgets ------------------------------------------------------------------------------------------------

MinAgreement = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=BUDGETS,
        help="Smallest share, from 0 to 1, of inputs on which both models give the same prediction, e.g. "
        "0.98. Measured on held-out inputs: a third of --calibration, or generated ones. The last model "
        "within all budgets is written.",
    ),
]
MaxLoss = Annotated[
    str | None,
    Option(
        metavar="SHARE",
        rich_help_panel=BUDGETS,
        help="Largest share of predictions that may change, e.g. 1%; the same as --min-agreement 0.99.",
    ),
]
MaxDrift = Annotated[
    float | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=BUDGETS,
        help="Largest change of any output on these inputs, in the units of the outputs, e.g. 2.0.",
    ),
]
MinCertifiedAgreement = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=BUDGETS,
        help="As --min-agreement, but proved for every input within --eps of those of --calibration; needs "
        "both. Slow.",
    ),
]
MaxCertifiedDrift = Annotated[
    float | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=BUDGETS,
        help="As --max-drift, but proved: for every input within --eps of these inputs, or without --eps for "
        "every input in --input-bounds. Slow.",
    ),
]
Eps = Annotated[
    float | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=BUDGETS,
        help="Radius for the two budgets that are proved (L∞): how far each input value may move, in the "
        "units of --input-bounds, e.g. 0.01.",
    ),
]

# --- output and other ---------------------------------------------------------------------------------------

RecipeFile = Annotated[
    Path | None,
    Option(
        "--recipe",
        metavar="PATH",
        rich_help_panel=OUTPUT,
        help="File for the recipe, a .json file that records what was removed, for `secateur replay`. "
        "Default: small.recipe.json for -o small.onnx.",
    ),
]

Resume = Annotated[
    bool,
    Option(
        "--resume",
        rich_help_panel=OUTPUT,
        help="Write a checkpoint after every step, to the folder small.onnx.partial for -o small.onnx, and "
        "go on from the one that an interrupted run has left; the result is the same, bit for bit. Give all "
        "options as before. The folder is removed when the result is written.",
    ),
]


def prune_command(
    model: Model,
    # common
    output: ModelOutput,
    remove: Remove = None,
    faster: Faster = None,
    method: MethodOption = Method.reconstruct.value,
    ignore: Ignore = None,
    attention: AttentionOption = Attention.auto,
    streams: StreamsOption = False,
    quantize: QuantizeOption = None,
    data: Data = None,
    round_to: RoundTo = "auto",
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
    budget: Budget = None,
    allocation: AllocationOption = Allocation.uniform,
    option: ParameterOption = None,
    step: Step = None,
    recursive: Recursive = True,
    exact_first: ExactFirst = False,
    # budgets
    max_loss: MaxLoss = None,
    min_agreement: MinAgreement = None,
    max_drift: MaxDrift = None,
    min_certified_agreement: MinCertifiedAgreement = None,
    max_certified_drift: MaxCertifiedDrift = None,
    eps: Eps = None,
    # output and other
    recipe: RecipeFile = None,
    report: ReportFile = None,
    model_card: ModelCard = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: AsJson = False,
    time_it: TimeIt = True,
    seed: Seed = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Write a smaller copy of a model, and a recipe of what was removed.

    Needs no training data and no retraining. MODEL itself stays as it is.
    """
    from secateur.checkpoint import begun, discard
    from secateur.cli.reading import example_from, float_model_from, inputs_from, tokenizer_of
    from secateur.files import written_together
    from secateur.graph.example import tensors_in
    from secateur.progress import phase
    from secateur.prune import run_request
    from secateur.request import Request

    _check_quantize(quantize, data, output)
    reports = report_outputs(report, model_card)
    recipe = _checked_recipe(model, weights, (calibration, data), output, recipe, reports, overwrite)
    given = inputs_from(model, input_bounds, mean, std, normalize, example_shape)
    budgets = {
        "agreement": least_agreement(max_loss, min_agreement),
        "drift": max_drift,
        "certified_agreement": min_certified_agreement,
        "certified_drift": max_certified_drift,
        "eps": eps,
    }
    partial = output.with_name(f"{output.name}.partial")
    settings: dict[str, Any] = {
        "remove": remove if faster is None else _fewer_macs(faster, remove),
        "method": method,
        "options": _method_options(method, option or []),
        "input_bounds": given.input_bounds,
        "mean": given.mean or None,
        "std": given.std or None,
        "normalize": given.normalize,
        "surrogate": surrogate.value,
        "calibration": calibration,
        "tokenizer": tokenizer_of(model, tokenizer),
        "samples": samples,
        "memory": memory,
        "budget": budget,
        "allocation": allocation.value,
        "attention": attention.value,
        "streams": streams,
        "guard": {name: value for name, value in budgets.items() if value is not None},
        "head": head.value,
        "step": step,
        "recursive": recursive,
        "exact_first": exact_first,
        "ignore": ignore or (),
        "round_to": _rounding(round_to),
        "uniform_layers": uniform_layers,
        "seed": seed,
        "device": device,
        "resume": partial if resume else None,
        "callbacks": (),
        "progress": True,
    }
    request = Request.parse(**settings)  # before a large file is read
    if begun(partial) and not resume:
        say(f"{partial} holds the steps of an interrupted run; --resume would go on from there")
    loaded, was_quantized = float_model_from(model, weights)
    if was_quantized:
        quantize = quantize or "int8"
        check_quantized_output(quantize, output)
        say(f"{model} is quantised: its dequantised weights are pruned, and quantised again with {quantize}")
    example = example_from(loaded, given)
    measured = {"latency": time_it, **labelled(data, loaded, given)}
    _say_assumed(given, example)
    with collected_warnings() as warned, _told_to_go_on(partial, resume):
        result = run_request(loaded, example, request)
    quantized = None
    if quantize is not None:
        quantized = quantized_after(result, loaded, example, quantize, settings, measured)
        result = result.with_quantization(quantized.record)
    with phase(f"writing {output}", True), written_together():
        _save_model(output, result, quantized, example)
        result.recipe.save(recipe)
    if resume:
        discard(partial)
    timed = _timed(loaded, result, output, example) if time_it and quantize is None else None
    inputs = options_for(
        ("--input-bounds", input_bounds), ("--mean", mean), ("--std", std), ("--normalize", normalize)
    )
    _print(result, model, output, recipe, timed, inputs, len(tensors_in(example)) > 1, as_json)
    if reports:
        own = None if calibration is None else (calibration, given.input_bounds, settings["tokenizer"])
        facts = _facts(result, (model, loaded, example), (output, recipe), timed, own, warned)
        write_reports([facts], report, model_card)
        if not as_json:
            say_written(report, model_card)
    if result.stopped:
        raise Exit(TARGET_MISSED)


@contextmanager
def _told_to_go_on(partial: Path, resume: bool) -> Iterator[None]:
    """On stderr, where the run ends early: how to go on."""
    from secateur.checkpoint import begun

    try:
        yield
    except BaseException:  # also a signal
        if resume and begun(partial):
            say(f"{partial} holds the steps so far; the same command goes on from there")
        raise


def _say_assumed(given: InputSpec, example: tuple[Any, ...] | dict[str, Any]) -> None:
    """On stderr: what is assumed of inputs that nobody described."""
    from secateur.graph.example import tensors_in

    if not given.declared and any(x.is_floating_point() for x in tensors_in(example)):
        low, high = given.input_bounds
        say(
            f"inputs are taken to lie between {low:g} and {high:g}, not normalised (--input-bounds, "
            "--normalize)"
        )


def _save_model(
    output: Path,
    result: secateur.Result,
    quantized: secateur.Quantized | None,
    example: tuple[Any, ...] | dict[str, Any],
) -> None:
    if quantized is None:
        secateur.save_model(output, result.model, example)
    else:
        quantized.save(output)


def options_for(*given: tuple[str, str | None]) -> str:
    """Options as text, to be given again."""
    return "".join(f" {name}={value}" for name, value in given if value is not None)


def _checked_recipe(
    model: str,
    weights: Path | None,
    data: Sequence[Path | None],
    output: Path,
    recipe: Path | None,
    reports: Sequence[Output],
    overwrite: bool,
) -> Path:
    """The path of the recipe. Raises `InputError` if one of the files to write may not be written."""
    from secateur import outputs
    from secateur.arguments import PATH, parsed
    from secateur.cli.reading import check_packages
    from secateur.report.recipe import refitted_path

    if recipe is None:
        recipe = outputs.recipe_path(parsed("--output", output, PATH), model)
    check_packages(model, output)
    writes = [
        *outputs.model_outputs(output, model),
        outputs.Output("--recipe", recipe, outputs.RECIPE),
        outputs.Output("--recipe", refitted_path(recipe), outputs.SOLVED),
        *reports,
    ]
    outputs.check_outputs(outputs.model_files(model, weights, *data), writes, overwrite)
    return recipe


def _check_quantize(scheme: str | None, data: Path | None, output: Path) -> None:
    if scheme is not None:
        check_quantized_output(scheme, output)
    elif data is not None:
        raise InputError("--data goes with --quantize; `secateur evaluate` measures a pruned model on data")


def _fewer_macs(faster: str, remove: str | None) -> str:
    """Convert `2x` to a value of --remove."""
    try:
        times = amount(faster, {"": 1.0, "x": 1.0})
    except ValueError:
        times = 0.0
    if not times > 1:
        raise InputError(f"--faster {faster}: give how many times faster, above 1, e.g. 2x")
    if remove is not None:
        raise InputError("--faster and --remove say the same; give one of them")
    return f"macs={1 - 1 / times:.6g}"


def least_agreement(loss: str | None, agreement: float | None) -> float | None:
    """The budget of --max-loss and --min-agreement, which say the same."""
    if loss is None:
        return agreement
    if agreement is not None:
        raise InputError("--max-loss and --min-agreement say the same; give one of them")
    try:
        lost = as_share(loss)
    except ValueError:
        lost = math.nan
    if not 0 <= lost < 1:
        raise InputError(f"--max-loss {loss}: give the share of predictions that may change, e.g. 1% or 0.01")
    return 1 - lost


def _method_options(method: str, pairs: list[str]) -> dict[str, float | int]:
    from secateur.methods import options_of

    options: dict[str, float | int] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            options[name] = int(value) if value.lstrip("+-").isdecimal() else float(value)
        except ValueError:
            known = ", ".join(f"{k}={v}" for k, v in options_of(method).items()) or "none"
            raise InputError(f"--option {pair}: write name=number; {method} has {known}") from None
    return options


def _rounding(text: str) -> Rounding:
    """A number, or the text for `prune` to check."""
    try:
        return int(text)
    except ValueError:
        return text  # type: ignore[return-value]


def _timed(
    original: nn.Module | ExportedProgram,
    result: secateur.Result,
    output: Path,
    example: tuple[Any, ...] | dict[str, Any],
) -> secateur.Latency | None:
    """Time one sample before and after, where the result will run; what `prune` has timed there stands.

    On stderr: why it was not timed, or that it takes no less time.
    """
    from secateur.evaluate.latency import usual_runtime

    found, planned = by_suffix(output), result.latency
    after = output if found is not None and found.proto is not None else result.model
    try:
        if planned is not None and planned.table.runtime == usual_runtime(original, after):
            timed = secateur.Latency(planned.before, planned.after, planned.table.runtime)
        else:
            timed = secateur.latency(original, after, example)
    except SecateurError as error:
        say(f"the latency was not measured: {error}")
        return None
    if not timed.fell:
        rounding = "" if str(result.recipe.request.round_to) == "16" else "--round-to 16, or "
        say(
            f"one sample takes no less time in {timed.runtime} than before, {timed.before:.3g} → "
            f"{timed.after:.3g} ms; try {rounding}to remove more (--remove macs=…)"
        )
    return timed


def _facts(
    result: secateur.Result,
    pruned: tuple[str, nn.Module | ExportedProgram, Any],
    written: tuple[Path, Path],
    timed: secateur.Latency | None,
    own: tuple[Path, Any, Any] | None,
    warned: Sequence[str],
) -> Facts:
    """What a report shows.

    Args:
        pruned: The original: its name, the model, and example inputs.
        written: The paths of the smaller model and of the recipe.
        own: The user's inputs, their bounds and the tokenizer's file, if they were given.
        warned: What the run warned of.
    """
    from secateur.page.from_recipe import result_facts
    from secateur.page.moved import with_moved
    from secateur.progress import phase
    from secateur.samples import Calibration

    (name, model, example), (output, recipe) = pruned, written
    complete = replace(result, recipe=secateur.Recipe.load(recipe))  # with the digests of the files
    facts = result_facts(complete, output.name, str(recipe), name, timed)
    facts = replace(facts, warnings=tuple(dict.fromkeys([*facts.warnings, *warned])))
    inputs = None if own is None else Calibration(*own)
    with phase("finding the inputs that moved most", True):
        try:
            return with_moved(facts, model, result.model, result.recipe, example, inputs)
        except SecateurError as error:  # the result itself is written
            say(f"the report does not tell which inputs moved most: {error}")
            return facts


def _print(
    result: secateur.Result,
    model: str,
    output: Path,
    recipe: Path,
    timed: secateur.Latency | None,
    inputs: str,
    several: bool,
    as_json: bool,
) -> None:
    if result.shortfall:
        say(result.shortfall)
    found = by_suffix(output)
    if result.latency is not None and found is not None and found.runtime != result.latency.table.runtime:
        say(
            f"latency was measured in {result.latency.table.runtime}, and {output} is for {found.runtime}; "
            "to plan for that, prune an .onnx file"
        )
    if as_json:
        print_json(_as_json(result, output, recipe, timed))
        return
    from secateur.report.recipe import refitted_path

    quantized = result.recipe.quantized
    print_table(*pruning_table(result, timed, None if quantized else _sizes(model, output)))
    if quantized is not None:
        print_quantization(quantized)
    seconds = result.history[-1].seconds
    solved = f", {refitted_path(recipe)}" if result.recipe.tensors else ""
    print_result(f"wrote {output}, {recipe}{solved} ({result.recipe.request.method}, {seconds:.1f} s)")
    if result.latency is not None:
        print_result(f"latency: {result.latency.told()}")
    if result.verdict is not None:
        steps = [] if quantized else next_steps(result.verdict, model, output, inputs, several)
        for line in (*result.verdict.lines(), *steps):
            print_result(line)


def _sizes(model: str, output: Path) -> tuple[int, int] | None:
    """Bytes of both models with their external weights, if they have the same format."""
    if Path(model).suffix.lower() != output.suffix.lower() or not Path(model).is_file():
        return None
    before, after = (
        sum(p.stat().st_size for p in (Path(f), Path(f"{f}.data")) if p.is_file()) for f in (model, output)
    )
    return before, after


def _as_json(
    result: secateur.Result, output: Path, recipe: Path, timed: secateur.Latency | None
) -> dict[str, Any]:
    before, after = result.before, result.history[-1]
    return {
        "output": str(output),
        "recipe": str(recipe),
        "method": result.recipe.request.method,
        "achieved": result.recipe.achieved,
        "shortfall": result.shortfall or None,
        "stopped": result.stopped or None,
        "tried": list(result.tried),
        "units": [before.units, before.units - after.units_removed],
        "parameters": [before.parameters, after.parameters],
        "macs": [before.macs, after.macs],
        "latency_ms": None if timed is None else [timed.before, timed.after],
        "latency_planned": None
        if result.latency is None
        else result.latency.model_dump(mode="json", exclude={"table"}),
        "latency_runtime": None if timed is None else timed.runtime,
        "seconds": after.seconds,
        "class": type(result.model).__name__,
        "quantized": None if result.recipe.quantized is None else as_plain(result.recipe.quantized),
        "verdict": None if result.verdict is None else result.verdict.model_dump(mode="json"),
    }
