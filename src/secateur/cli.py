"""The command line: parsing, and the only printing. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any, NoReturn, cast, get_args

import torch
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur import __version__, explain, outputs
from secateur.arguments import PATH, parsed
from secateur.budget import check_input
from secateur.certify import Certificate, certify
from secateur.certify.vnnlib import write_claim
from secateur.decisions import HEADS, Head
from secateur.errors import InputError, SecateurError, TargetMissedError
from secateur.evaluate import APGD, FGSM, PGD, Attack, AutoAttack, Corruption, Evaluation, evaluate
from secateur.evaluate.attacks.losses import Loss as LossName
from secateur.evaluate.attacks.norms import Norm as NormName
from secateur.evaluate.corruptions import CORRUPTIONS, severities
from secateur.evaluate.latency import Latency, latency
from secateur.evaluate.runtime import RUNTIMES, Runtime
from secateur.files import written_together
from secateur.formats.arrays import load_arrays
from secateur.formats.foreign import kind_of
from secateur.formats.models import load_model, save_model
from secateur.formats.onnx import OnnxModel
from secateur.formats.onnx.read import require_packages
from secateur.graph.example import tensors_in
from secateur.inputs import Inputs, numbers, read_inputs
from secateur.methods import NAMES, options_of
from secateur.outputs import Output, check_outputs, claim_outputs, model_files, model_outputs
from secateur.plan import AUTO, Rounding
from secateur.printable import printable
from secateur.progress import phase
from secateur.prune import inspect, prune
from secateur.replay import replay
from secateur.report.recipe import Recipe, beside
from secateur.request import Request
from secateur.result import Result
from secateur.surrogates import SURROGATES

FAILED, TARGET_MISSED, FAULT = 1, 3, 70
_LONGEST = 400  # characters of an unexpected error

Method = StrEnum("Method", list(NAMES))  # type: ignore[misc]  # its members are the rows of a table
Surrogate = StrEnum("Surrogate", list(SURROGATES))  # type: ignore[misc]

RuntimeName = StrEnum("RuntimeName", list(RUNTIMES))  # type: ignore[misc]
HeadName = StrEnum("HeadName", list(HEADS))  # type: ignore[misc]
Norm = StrEnum("Norm", list(get_args(NormName)))  # type: ignore[misc]
Loss = StrEnum("Loss", list(get_args(LossName)))  # type: ignore[misc]


class Allocation(StrEnum):
    uniform = "uniform"
    global_ = "global"


class CertifyMethod(StrEnum):
    linear = "linear"
    interval = "interval"


app = typer.Typer(
    help="Prune pre-trained networks without data and without retraining.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ModelArgument = Annotated[str, typer.Argument(help="A .pt2 or .onnx file, or package.module:factory (with --weights).")]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="The smaller model: .pt2, .onnx, or .safetensors (weights).")
]
Weights = Annotated[Path | None, typer.Option(help="A .safetensors file, for a factory.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        "--example-shape",
        help="Shape of one input without its batch axis, e.g. 3,32,32; integer inputs as 16:int64. "
        "Repeat it for several inputs. A file that tells its shapes needs none.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing files of another kind, too.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")]
Device = Annotated[str | None, typer.Option(help="Where to compute, e.g. cpu or cuda.")]
BoundsOption = Annotated[
    str | None,
    typer.Option(
        "--input-bounds",
        help="Legal range of every input feature, before it is normalised: low,high (default 0,1). "
        "This, --mean, --std and --example-shape may stand in a .yaml file of the model's name beside it.",
    ),
]
HeadOption = Annotated[
    HeadName,
    typer.Option(
        "--head",
        help="What the outputs are: how they decide, or none (a regression). Default: told by the model's last ops.",
    ),
]
Mean = Annotated[str | None, typer.Option(help="What the model's inputs are less of: a number, or one per channel.")]
Std = Annotated[str | None, typer.Option(help="What they are then divided by: a number, or one per channel.")]
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help="Recipe to write; default: OUTPUT.recipe.json.")]


@app.command("inspect")
def inspect_command(
    model: ModelArgument,
    weights: Weights = None,
    example_shape: Shapes = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the groups of units, what is pinned and why."""
    loaded = _loaded(model, weights)
    example = _example(loaded, _inputs(model, shapes=example_shape))
    with phase("capturing the model", True):
        coupling = inspect(loaded, example)
    if as_json:
        groups = [
            {
                "name": g.name,
                "units": g.units,
                "pinned": g.pinned or None,
                "slots": [{"tensor": s.tensor, "axis": s.axis, "role": s.role} for s in g.slots],
            }
            for g in coupling.groups
        ]
        _print_json({"groups": groups, "blocked": dict(coupling.blocked)})
        return
    table = Table("group", "units", "made by | read by", "state")
    for row in explain.rows(coupling):
        table.add_row(*map(_safe, row))
    Console().print(table)


@app.command("prune")
def prune_command(
    model: ModelArgument,
    output: OutputOption,
    weights: Weights = None,
    example_shape: Shapes = None,
    remove: Annotated[
        str | None,
        typer.Option(
            help="The share that goes: 0.5 or 50% of units, params=50%, or macs=50%. "
            "Default: 0.5, and for exact all that can."
        ),
    ] = None,
    method: Annotated[Method, typer.Option(help="How units are chosen and made up for.")] = Method["reconstruct"],
    option: Annotated[
        list[str] | None, typer.Option(help="A parameter of the method, name=value; may be repeated.")
    ] = None,
    input_bounds: BoundsOption = None,
    mean: Mean = None,
    std: Std = None,
    surrogate: Annotated[
        Surrogate, typer.Option(help="Inputs made from the model, on which it is looked at.")
    ] = Surrogate["auto"],
    calibration: Annotated[
        Path | None, typer.Option(help="A .npz file of unlabelled inputs of your own, in place of surrogates.")
    ] = None,
    samples: Annotated[int, typer.Option(help="How many inputs to look at, at most.")] = 2048,
    allocation: Annotated[
        Allocation, typer.Option(help="The same share of every group, or more where it costs the outputs less.")
    ] = Allocation.uniform,
    min_agreement: Annotated[
        float | None, typer.Option(help="Stop before agreement with the original on samples falls below this (0 to 1).")
    ] = None,
    max_drift: Annotated[
        float | None, typer.Option(help="Stop before any output moves further than this on samples.")
    ] = None,
    min_certified_agreement: Annotated[
        float | None,
        typer.Option(help="The same, proved for all inputs within --eps of those of --calibration."),
    ] = None,
    max_certified_drift: Annotated[
        float | None,
        typer.Option(help="The same for the drift, proved within --eps of samples, or without --eps on the whole box."),
    ] = None,
    eps: Annotated[float | None, typer.Option(help="Radius of the certified budgets (L∞, in input units).")] = None,
    head: HeadOption = HeadName["auto"],
    step: Annotated[
        float | None,
        typer.Option(
            help="Largest share of a group that leaves at a time; 1: one shot. "
            "Default: 1 for reconstruct where nothing is to stop it, else 0.0625."
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option(help="Whether a unit may stand in for several others.")] = True,
    exact_first: Annotated[
        bool, typer.Option("--exact-first", help="Begin with all units that the function does not need.")
    ] = False,
    ignore: Annotated[list[str] | None, typer.Option(help="Glob over layers that stay whole; may be repeated.")] = None,
    round_to: Annotated[
        str,
        typer.Option(help="Keep a multiple of this number of units; 1: any number; auto: what runtimes compute fast."),
    ] = AUTO,
    time_it: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Time one sample at the end, before and after in turns.")
    ] = True,
    recipe: RecipeOption = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a smaller model and its recipe."""
    recipe = _recipe_path(output, recipe)
    _check_packages(model, output)
    solved = Output("--recipe", beside(recipe), outputs.SOLVED)
    writes = [*model_outputs(output), Output("--recipe", recipe, outputs.RECIPE), solved]
    check_outputs(model_files(model, weights, calibration), writes, overwrite)
    given = _inputs(model, input_bounds, mean, std, example_shape)
    budgets = {
        "agreement": min_agreement,
        "drift": max_drift,
        "certified_agreement": min_certified_agreement,
        "certified_drift": max_certified_drift,
        "eps": eps,
        "head": None if head.value == "auto" else head.value,
    }
    settings: dict[str, Any] = {
        "remove": remove,
        "method": method.value,
        "options": _options(method.value, option or []),
        "input_bounds": given.input_bounds,
        "mean": given.mean or None,
        "std": given.std or None,
        "surrogate": surrogate.value,
        "calibration": calibration,
        "samples": samples,
        "allocation": allocation.value,
        "guard": {name: value for name, value in budgets.items() if value is not None},
        "step": step,
        "recursive": recursive,
        "exact_first": exact_first,
        "ignore": ignore or (),
        "round_to": _rounding(round_to),
        "seed": seed,
        "device": device,
        "callbacks": (),
        "progress": True,
    }
    Request.parse(**settings)  # before a large file is read
    loaded = _loaded(model, weights)
    example = _example(loaded, given)
    result = prune(loaded, example, **settings)
    with phase(f"writing {output}", True), written_together():
        save_model(output, result.model, example)
        result.recipe.save(recipe)
    timed = _timed(loaded, result, output, example) if time_it else None
    _report_pruning(result, output, recipe, timed, as_json)
    if result.stopped:
        raise typer.Exit(TARGET_MISSED)


@app.command("replay")
def replay_command(
    model: ModelArgument,
    recipe: Annotated[Path, typer.Argument(help="The recipe that `secateur prune` wrote.")],
    output: OutputOption,
    weights: Weights = None,
    example_shape: Shapes = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Rebuild a pruned model from the original and a recipe."""
    parsed("RECIPE", recipe, PATH)
    parsed("--output", output, PATH)
    _check_packages(model, output)
    check_outputs(model_files(model, weights, recipe, beside(recipe)), model_outputs(output), overwrite)
    loaded = _loaded(model, weights)
    read = Recipe.load(recipe)
    shapes = example_shape or [_shape_text(s.shape, s.dtype) for s in read.inputs]
    example = _example(loaded, _inputs(model, shapes=shapes))
    with phase("replaying the recipe", True):
        save_model(output, replay(loaded, read, example), example)
    _say_result(f"wrote {output}")


@app.command("evaluate")
def evaluate_command(
    model: ModelArgument,
    data: Annotated[Path, typer.Option(help="A .npz file with images and labels.")],
    weights: Weights = None,
    original: Annotated[str | None, typer.Option(help="The unpruned model, for agreement and cost before.")] = None,
    original_weights: Annotated[Path | None, typer.Option(help="A .safetensors file, for its factory.")] = None,
    fgsm: Annotated[list[float] | None, typer.Option(help="Radius of an FGSM attack; may be repeated.")] = None,
    pgd: Annotated[list[float] | None, typer.Option(help="Radius of a PGD attack; may be repeated.")] = None,
    pgd_steps: Annotated[int, typer.Option(help="Steps of PGD.")] = 20,
    apgd: Annotated[list[float] | None, typer.Option(help="Radius of an APGD attack; may be repeated.")] = None,
    autoattack: Annotated[
        list[float] | None,
        typer.Option(help="Radius of AutoAttack (slow; needs pyautoattack); may be repeated."),
    ] = None,
    norm: Annotated[Norm, typer.Option(help="In which the radius of attacks is measured.")] = Norm["linf"],
    loss: Annotated[Loss, typer.Option(help="What PGD and APGD climb.")] = Loss["ce"],
    restarts: Annotated[int, typer.Option(help="Runs of PGD and APGD from other random starts.")] = 1,
    corruption: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(CORRUPTIONS)}, or with a strength, as gaussian_noise:0.1; may be repeated."),
    ] = None,
    top_k: Annotated[list[int] | None, typer.Option(help="k of a top-k accuracy; may be repeated.")] = None,
    samples: Annotated[int | None, typer.Option(help="Use the first so many images.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 256,
    head: HeadOption = HeadName["auto"],
    input_bounds: BoundsOption = None,
    mean: Mean = None,
    std: Std = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Show accuracy class by class, too.")] = False,
    latency: Annotated[bool, typer.Option(help="Time a batch, before and after in turns.")] = False,
    runtime: Annotated[
        RuntimeName | None, typer.Option(help="Where it is timed. Default: onnxruntime for .onnx files, else torch.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure accuracy, robustness and cost on labelled data."""
    if samples is not None and samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")
    arrays = load_arrays(data)
    if "labels" not in arrays:
        raise InputError(f"{data} holds no labels; name them labels, test_labels or y")
    ball = cast(NormName, norm.value)
    climbed = cast(LossName, loss.value)
    attacks: list[Attack] = [FGSM(eps, ball) for eps in fgsm or ()]
    attacks += [PGD(eps, steps=pgd_steps, restarts=restarts, seed=seed, norm=ball, loss=climbed) for eps in pgd or ()]
    attacks += [APGD(eps, ball, climbed, restarts=restarts, seed=seed) for eps in apgd or ()]
    attacks += [AutoAttack(eps, ball, seed=seed) for eps in autoattack or ()]
    given = _inputs(model, input_bounds, mean, std)
    report = evaluate(
        given.around(_loaded(model, weights)),
        arrays["images"][:samples],
        arrays["labels"][:samples],
        original=given.around(_loaded(original, original_weights)) if original else None,
        attacks=attacks,
        corruptions=[c for text in corruption or () for c in _corruptions(text, seed)],
        top_k=top_k or (1,),
        input_bounds=given.input_bounds,
        batch_size=batch_size,
        device=device,
        head=cast(Head, head.value),
        latency=latency,
        runtime=cast(Runtime, runtime.value) if runtime else None,
        progress=True,
    )
    for warning in report.warnings:
        _say(warning)
    if as_json:
        _print_json(report.model_dump(mode="json"))
        return
    _report_evaluation(report)
    if per_class:
        _report_classes(report)


@app.command("certify")
def certify_command(
    original: ModelArgument,
    pruned: Annotated[str, typer.Argument(help="The pruned model: a .pt2 or .onnx file, or package.module:factory.")],
    weights: Weights = None,
    pruned_weights: Annotated[Path | None, typer.Option(help="Weights of the pruned model's factory.")] = None,
    example_shape: Shapes = None,
    input_bounds: BoundsOption = None,
    mean: Mean = None,
    std: Std = None,
    data: Annotated[
        Path | None, typer.Option(help="A .npz file of images; with labels, only those rightly classified are stable.")
    ] = None,
    eps: Annotated[float | None, typer.Option(help="Radius of the L∞ balls round the images of --data.")] = None,
    samples: Annotated[int, typer.Option(help="Use the first so many images.")] = 100,
    head: HeadOption = HeadName["auto"],
    method: Annotated[
        CertifyMethod, typer.Option(help="Linear bounds on both models together, or intervals alone: fast and wide.")
    ] = CertifyMethod.linear,
    attack_steps: Annotated[int, typer.Option(help="Steps of the search for the largest real drift; 0: none.")] = 40,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Certificate to write, .json.")] = None,
    vnnlib: Annotated[
        Path | None,
        typer.Option(
            help="Write the claim for other verifiers: PATH.onnx and PATH.vnnlib. Of the box, or with --samples 1."
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Prove how far the pruned model's outputs can be from the original's."""
    if (data is None) != (eps is None):
        raise InputError("--data and --eps belong together; without them, the certificate is about the whole input box")
    if samples < 1:
        raise InputError(f"--samples {samples}: give at least 1")
    writes = [Output("--output", output, outputs.CERTIFICATE)] if output is not None else []
    writes += [] if vnnlib is None else claim_outputs(vnnlib)
    check_outputs(model_files(original, *model_files(pruned), weights, pruned_weights, data), writes, overwrite)
    given = _inputs(original, input_bounds, mean, std, example_shape)
    arrays = {} if data is None else load_arrays(data)
    images = arrays["images"][:samples] if arrays else None
    loaded, smaller = _loaded(original, weights), _loaded(pruned, pruned_weights)
    known = images is not None and not given.example_shape
    example = (arrays["images"][:2],) if known else _example(loaded, given)
    loaded, smaller = given.around(loaded), given.around(smaller)
    certificate = certify(
        loaded,
        smaller,
        example,
        input_bounds=given.input_bounds,
        inputs=images,
        eps=eps,
        labels=arrays["labels"][:samples] if "labels" in arrays else None,
        head=cast(Head, head.value),
        method=method.value,
        attack_steps=attack_steps,
        seed=seed,
        progress=True,
    )
    with written_together():
        if output is not None:
            certificate.save(output)
        if vnnlib is not None:
            write_claim(vnnlib, loaded, smaller, tuple(tensors_in(example)), certificate, images)
    if as_json:
        _print_json(certificate.model_dump(mode="json"))
    else:
        _report_certificate(certificate)


@app.callback(invoke_without_command=True)
def version_option(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        Console().print(f"secateur {__version__}", highlight=False)
        raise typer.Exit()


def main() -> None:
    """Entry point. Expected failures are one message on stderr and an exit code; a traceback only with --debug."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last is not on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)
    warnings.showwarning = _warn
    _open_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except TargetMissedError as error:
        _fail(error, TARGET_MISSED)
    except SecateurError as error:
        _fail(error, FAILED)
    except _Interrupted as error:
        _fail(error, 128 + error.signal, "interrupted; no file was left half-written")
    except OSError as error:
        _fail(error, FAILED, f"the system refuses: {error.strerror or error}")
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is torch's
            _fail(error, FAILED, "out of memory; nothing was written. Take fewer --samples, or a machine with more")
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"
        _fail(error, FAULT, f"{told}. This is a fault in secateur; --debug shows where. Please report it")


def _open_streams() -> None:
    """Streams that the shell has closed lead nowhere; what a terminal cannot encode is escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the end)
        elif isinstance(stream := getattr(sys, name), TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Warnings as our other messages on stderr."""
    _say(f"warning: {message}")


class _Interrupted(BaseException):
    """Ctrl-C and the like, under a name that the command-line library does not catch before us."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def _interrupt(number: int, frame: object) -> NoReturn:
    raise _Interrupted(number)


def _fail(error: BaseException, code: int, message: str | None = None) -> NoReturn:
    if "--debug" in sys.argv:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    _say(message or str(error))
    sys.exit(code)


# --- arguments -------------------------------------------------------------------------------------------------------


def _inputs(
    model: str,
    bounds: str | None = None,
    mean: str | None = None,
    std: str | None = None,
    shapes: list[str] | None = None,
) -> Inputs:
    """What is said of the model's inputs, here or in the file beside it."""
    ends = numbers(bounds, "--input-bounds")
    if ends is not None and len(ends) != 2:
        raise InputError(f"--input-bounds {bounds}: give two numbers, low,high")
    return read_inputs(
        model,
        input_bounds=ends,
        mean=numbers(mean, "--mean"),
        std=numbers(std, "--std"),
        example_shape=shapes or None,
    )


def _options(method: str, pairs: list[str]) -> dict[str, float | int]:
    options: dict[str, float | int] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            options[name] = int(value) if value.lstrip("+-").isdigit() else float(value)
        except ValueError:
            known = ", ".join(f"{k}={v}" for k, v in options_of(method).items()) or "none"
            raise InputError(f"--option {pair}: write name=number; {method} has {known}") from None
    return options


def _rounding(text: str) -> Rounding:
    """As given where it is no number: `prune` says what it may be."""
    try:
        return int(text)
    except ValueError:
        return cast(Rounding, text)


def _corruptions(text: str, seed: int) -> tuple[Corruption, ...]:
    """KIND for its three severities, or KIND:STRENGTH."""
    kind, colon, strength = text.partition(":")
    if not colon:
        return severities(kind, seed)
    try:
        return (Corruption(kind, float(strength), seed),)
    except ValueError:
        raise InputError(f"--corruption {text}: write the strength as a number, e.g. {kind}:0.1") from None


def _example(model: nn.Module | ExportedProgram, given: Inputs) -> tuple[Any, ...] | dict[str, Any]:
    """Two samples of every input: halfway in the box (their values do not matter), zeros for integers."""
    if given.example_shape:
        return tuple(_sample(text, sum(given.input_bounds) / 2) for text in given.example_shape)
    if isinstance(model, OnnxModel):
        return model.example_inputs
    if isinstance(model, ExportedProgram) and model.example_inputs is not None:
        args, kwargs = model.example_inputs
        if not args or not kwargs:
            return kwargs if kwargs else tuple(args)
    raise InputError("give the shape of an input: --example-shape 3,32,32 (without the batch axis)")


def _sample(text: str, value: float) -> Tensor:
    sizes, _, dtype_name = text.partition(":")
    dtype = getattr(torch, dtype_name or "float32", None)
    try:
        shape = [int(size) for size in sizes.split(",") if size]
    except ValueError:
        shape = [0]
    if any(size < 1 for size in shape) or dtype not in _DTYPES:
        raise InputError(f"--example-shape {text}: write sizes as 3,32,32, with a type where needed as 16:int64")
    check_input(f"--example-shape {text}", (2, *shape), dtype)
    return torch.full((2, *shape), value if dtype.is_floating_point else 0, dtype=dtype)


_DTYPES = (
    *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)


def _shape_text(shape: tuple[int, ...], dtype: str) -> str:
    return f"{','.join(map(str, shape[1:]))}:{dtype}"


def _loaded(model: str, weights: Path | None = None) -> nn.Module | ExportedProgram:
    """The model. The current folder is searched for modules only where a factory is named: beside a model that someone
    sent, an `onnx.py` would be run in place of the library."""
    if ":" in model and not os.path.exists(model):
        sys.path.insert(0, "")
    return load_model(model, weights)


def _recipe_path(output: Path, recipe: Path | None) -> Path:
    return parsed("--output", output, PATH).with_suffix(".recipe.json") if recipe is None else recipe


def _check_packages(model: str, output: Path) -> None:
    """Before the work begins: what writes the output is installed."""
    if output.suffix == ".onnx":
        require_packages("onnx", "onnxruntime", *(() if kind_of(model) == "onnx" else ("onnxscript",)))


def _timed(
    original: nn.Module | ExportedProgram, result: Result, output: Path, example: tuple[Any, ...] | dict[str, Any]
) -> Latency | None:
    """One sample before and after, where the result will run; on stderr, why not, or that it takes no less time."""
    after = output if output.suffix.lower() == ".onnx" else result.model
    try:
        timed = latency(original, after, example)
    except SecateurError as error:
        _say(f"the latency was not measured: {error}")
        return None
    if not timed.fell:
        rounding = "" if str(result.recipe.request.round_to) == "16" else "--round-to 16, or "
        _say(
            f"one sample takes no less time in {timed.runtime} than before, {timed.before:.3g} → {timed.after:.3g} ms; "
            f"try {rounding}to remove more (--remove macs=…)"
        )
    return timed


# --- printing --------------------------------------------------------------------------------------------------------


def _say(message: str) -> None:
    """A message, on stderr."""
    print(f"secateur: {printable(message)}", file=sys.stderr)


def _say_result(message: str) -> None:
    """A line of the result, on stdout."""
    Console().print(_safe(message))


def _safe(text: str) -> str:
    """Text that may hold names from files, for a table or a line of `rich`."""
    return escape(printable(text))


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1))


def _report_pruning(result: Result, output: Path, recipe: Path, timed: Latency | None, as_json: bool) -> None:
    before, after = result.before, result.history[-1]
    if result.shortfall:
        _say(result.shortfall)
    if as_json:
        _print_json(
            {
                "output": str(output),
                "recipe": str(recipe),
                "method": result.recipe.request.method,
                "achieved": result.recipe.achieved,
                "shortfall": result.shortfall or None,
                "stopped": result.stopped or None,
                "units": [before.units, before.units - after.units_removed],
                "parameters": [before.parameters, after.parameters],
                "macs": [before.macs, after.macs],
                "latency_ms": None if timed is None else [timed.before, timed.after],
                "latency_runtime": None if timed is None else timed.runtime,
                "seconds": after.seconds,
                "class": type(result.model).__name__,
            }
        )
        return
    table = Table("", "before", "after", "removed")
    for name, old, new in (
        ("units", before.units, before.units - after.units_removed),
        ("parameters", before.parameters, after.parameters),
        ("MACs", before.macs, after.macs),
    ):
        table.add_row(name, f"{old:,}", f"{new:,}", f"{1 - new / old:.1%}")
    if timed is not None:
        label, less = f"ms for one sample ({timed.runtime})", f"{1 - timed.after / timed.before:.1%}"
        table.add_row(label, f"{timed.before:.3g}", f"{timed.after:.3g}", less)
    Console().print(table)
    _say_result(f"wrote {output} and {recipe} ({result.recipe.request.method}, {after.seconds:.1f} s)")


def _report_evaluation(report: Evaluation) -> None:
    table = Table(f"{report.samples:,} samples, {report.head}", "value", "original")
    for k, share in report.accuracy.items():
        old = report.original_accuracy
        table.add_row(f"top-{k} accuracy", f"{share:.2%}", f"{old[k]:.2%}" if old else "")
    if report.agreement is not None:
        table.add_row("agreement with the original", f"{report.agreement:.2%}", "")
    if report.worst_class_accuracy is not None:
        worst = report.original_worst_class_accuracy
        table.add_row(
            "accuracy of the worst class", f"{report.worst_class_accuracy:.2%}", "" if worst is None else f"{worst:.2%}"
        )
    for row in report.attacks:
        table.add_row(f"{row.name}: robust accuracy", f"{row.robust_accuracy:.2%}", "")
        table.add_row(f"{row.name}: robust instances per 1,000", f"{row.robust_instances_per_1000:.1f}", "")
    for worse in report.corruptions:
        before = worse.original_accuracy
        label = f"{worse.kind}:{worse.strength:g}: accuracy"
        table.add_row(label, f"{worse.accuracy:.2%}", "" if before is None else f"{before:.2%}")
    new, old_cost = report.cost, report.cost_before
    table.add_row("parameters", f"{new.parameters:,}", f"{old_cost.parameters:,}" if old_cost else "")
    table.add_row("MACs", f"{new.macs:,}", f"{old_cost.macs:,}" if old_cost else "")
    table.add_row("bytes", f"{new.bytes:,}", f"{old_cost.bytes:,}" if old_cost else "")
    if new.latency_ms is not None:
        label = f"latency in ms ({report.latency_runtime}), batch of {report.latency_batch}"
        old_latency = old_cost.latency_ms if old_cost else None
        table.add_row(label, f"{new.latency_ms:.2f}", f"{old_latency:.2f}" if old_latency is not None else "")
    Console().print(table)


def _report_classes(report: Evaluation) -> None:
    table = Table("class", "samples", "accuracy", "original", "change")
    for row in report.classes:
        old = "" if row.original_accuracy is None else f"{row.original_accuracy:.2%}"
        change = "" if row.change is None else f"{100 * row.change:+.2f}"
        table.add_row(str(row.label), f"{row.samples:,}", f"{row.accuracy:.2%}", old, change)
    Console().print(table)


def _report_certificate(certificate: Certificate) -> None:
    drift = sorted(certificate.drift)
    where = certificate.input_set
    about = "the input box" if where.eps is None else f"balls of radius {where.eps:g} round {where.inputs:,} inputs"
    table = Table(about, "certified", "found by search")
    found = sorted(certificate.found or ())
    table.add_row("largest drift of an output", f"{drift[-1]:.4g}", f"{found[-1]:.4g}" if found else "")
    if len(drift) > 1:
        middle = len(drift) // 2
        table.add_row("the same, median over inputs", f"{drift[middle]:.4g}", f"{found[middle]:.4g}" if found else "")
    for label, share in (
        ("both models keep the original's class", certificate.agreement),
        ("the original keeps its class", certificate.stable_original),
        ("the pruned model keeps its class", certificate.stable_pruned),
    ):
        if share is not None:
            searched = "" if share.empirical is None else f"{share.empirical:.2%}"
            table.add_row(label, f"{share.certified:.2%}", searched)
    Console().print(table)
    _say_result(
        f"{certificate.method} bounds, {certificate.dtype}, rounded {certificate.rounding}; {certificate.seconds:.1f} s"
    )
    if certificate.undecided:
        _say_result(f"no decision: {certificate.undecided}; the claim is about drift alone")
    elif certificate.agreement is not None:
        _say_result(f"decisions: the outputs were taken for {certificate.head} (--head)")


if __name__ == "__main__":
    main()
