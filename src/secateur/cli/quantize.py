"""`secateur quantize`, and `--quantize` of `secateur prune`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

import secateur
from secateur.cli.names import Head, Scheme, Surrogate, listed
from secateur.cli.options import (
    COMMON,
    FIDELITY,
    MODEL_FILE,
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
    Overwrite,
    Seed,
    Shapes,
    Std,
    SurrogateOption,
    TimeIt,
    Weights,
    weights_of,
)
from secateur.cli.printing import print_json, print_result, print_table
from secateur.errors import InputError
from secateur.report.tables import stages_table

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

    from secateur.inputs import InputSpec
    from secateur.report.quantization import Quantization

Output = Annotated[
    Path,
    Option(
        "--output",
        "-o",
        metavar="PATH",
        rich_help_panel=COMMON,
        help="File for the quantised model. It ends in .onnx and is for onnxruntime.",
    ),
]
SCHEMES = (
    f"{listed(Scheme)}. int8: weights and values in 8 bits, the fastest on CPUs. fp16: all in half "
    "precision, for other processors. fp16-weights, bf16-weights: stored in half precision, computed in "
    "float32. int8-weights, int4-weights: matrix products alone."
)
SchemeOption = Annotated[
    str,
    Option(
        "--scheme",
        metavar="NAME",
        autocompletion=lambda: [*Scheme],
        rich_help_panel=COMMON,
        help=f"How to quantise: {SCHEMES}",
    ),
]
Original = Annotated[
    str | None,
    Option(
        metavar="MODEL",
        rich_help_panel=COMMON,
        help=f"The model before it was pruned, {MODEL_FILE}, with which agreement is measured. Default: "
        "MODEL.",
    ),
]
OriginalWeights = Annotated[Path | None, weights_of("--original")]
Data = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help="Images with labels, to report the accuracy before and after quantising, and for nothing else: "
        "an .npz file with the arrays images and labels.",
    ),
]
MinAgreement = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=FIDELITY,
        help="Smallest share, from 0 to 1, of inputs on which the quantised model gives the prediction of "
        "the original, e.g. 0.98. Nodes that lose most stay in float until it holds; if it cannot hold, "
        "nothing is written and the exit code is 3.",
    ),
]
Samples = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=FIDELITY,
        help="How many generated inputs, or inputs of --calibration, the ranges of values are taken from.",
    ),
]
MOST_SAMPLES = 512  # from which ranges are taken; more hardly change them


def quantize_command(
    model: Model,
    # common
    output: Output,
    scheme: SchemeOption = "int8",
    original: Original = None,
    data: Data = None,
    weights: Weights = None,
    original_weights: OriginalWeights = None,
    # inputs of the model
    input_bounds: InputBounds = None,
    mean: Mean = None,
    std: Std = None,
    normalize: Normalize = None,
    head: HeadOption = Head.auto,
    example_shape: Shapes = None,
    # fidelity
    min_agreement: MinAgreement = None,
    surrogate: SurrogateOption = Surrogate.auto,
    calibration: Calibration = None,
    samples: Samples = MOST_SAMPLES,
    memory: Memory = None,
    # output and other
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    time_it: TimeIt = True,
    seed: Seed = 0,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Write a quantised copy of a float model, for onnxruntime.

    Needs no training data. What it costs in agreement with the float model is measured and reported.
    """
    from secateur import outputs
    from secateur.cli.reading import check_packages, example_from, inputs_from, model_from
    from secateur.progress import phase

    check_quantized_output(scheme, output)
    check_packages(model, output)
    reads = [*outputs.model_files(model, weights, calibration, data), original, original_weights]
    outputs.check_outputs(reads, outputs.model_outputs(output), overwrite)
    given = inputs_from(original or model, input_bounds, mean, std, normalize, example_shape)
    loaded = model_from(model, weights)
    example = example_from(loaded, given)
    made = secateur.quantize(
        loaded,
        example,
        scheme=scheme,
        original=model_from(original, original_weights) if original else None,
        min_agreement=min_agreement,
        **labelled(data, loaded, given),
        input_bounds=given.input_bounds,
        mean=given.mean or None,
        std=given.std or None,
        normalize=given.normalize,
        surrogate=surrogate.value,
        calibration=calibration,
        samples=samples,
        memory=memory,
        head=head.value,  # type: ignore[arg-type]
        latency=time_it,
        seed=seed,
        device=device,
        progress=True,
    )
    with phase(f"writing {output}", True):
        made.save(output)
    if as_json:
        print_json({"output": str(output), **as_plain(made.record)})
        return
    print_quantization(made.record)
    print_result(f"wrote {output}")


def labelled(data: Path | None, model: nn.Module | ExportedProgram, given: InputSpec) -> dict[str, Any]:
    """The arguments `images` and `labels` of `quantize` from the file `data`; none without a file."""
    from secateur.cli.reading import data_from

    if data is None:
        return {}
    arrays = data_from(data, model, given)
    if "labels" not in arrays:
        raise InputError(
            f"--data {data} holds no labels; give an .npz file with the arrays images and labels"
        )
    return {"images": arrays["images"], "labels": arrays["labels"]}


def check_quantized_output(scheme: str, output: Path) -> None:
    """Raise `InputError` for an unknown scheme, and for a file that cannot hold a quantised model."""
    from secateur.arguments import PATH, parsed
    from secateur.quantize.schemes import scheme_named

    scheme_named(scheme)
    if parsed("--output", output, PATH).suffix.lower() == ".onnx":
        return
    advice = ""
    if output.suffix.lower() == ".pt2":
        advice = (
            "; a .pt2 file is quantised by torchao (PT2E), which secateur does not call: prune to .pt2, then "
            "use torchao yourself"
        )
    raise InputError(
        f"--output {output}: quantised models are written as .onnx files, for onnxruntime; give a name that "
        f"ends in .onnx{advice}"
    )


def quantized_after(
    result: secateur.Result,
    original: nn.Module | ExportedProgram,
    example: tuple[Any, ...] | dict[str, Any],
    scheme: str,
    settings: dict[str, Any],
    measured: dict[str, Any],
) -> secateur.Quantized:
    """The pruned model quantised, on inputs drawn as for pruning.

    `settings`: the arguments of `prune`. `measured`: those of `quantize` that say what to report.
    """
    shared = "input_bounds mean std normalize surrogate calibration memory head seed device progress".split()
    return secateur.quantize(
        result.model,
        example,
        scheme=scheme,
        original=original,
        min_agreement=settings["guard"].get("agreement"),
        samples=min(settings["samples"], MOST_SAMPLES),
        **measured,
        **{name: settings[name] for name in shared},
    )


def print_quantization(record: Quantization) -> None:
    print_table(*stages_table(record))
    print_result(record.lines()[0])  # what else there is to say was a warning


def as_plain(record: Quantization) -> dict[str, Any]:
    """For JSON; the ranges are for `secateur replay`, which reads them from the recipe."""
    return record.model_dump(mode="json", exclude={"ranges"})
