"""`secateur replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument

import secateur
from secateur.cli.options import Debug, Model, ModelOutput, Overwrite, Shapes, Weights
from secateur.cli.printing import print_result, say
from secateur.cli.quantize import check_quantized_output

if TYPE_CHECKING:
    from torch import nn

    from secateur.graph.example import ExampleInputs
    from secateur.report.quantization import Quantization

RecipeFile = Annotated[
    Path,
    Argument(
        metavar="RECIPE",
        help="Recipe that `secateur prune` wrote, a .recipe.json file, with the .solved.safetensors file "
        "beside it if there is one. It must belong to MODEL.",
    ),
]


def replay_command(
    model: Model,
    recipe: RecipeFile,
    output: ModelOutput,
    weights: Weights = None,
    example_shape: Shapes = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Rebuild a pruned model from the original model and its recipe.

    Nothing is chosen anew: the result equals the pruned model bit for bit, or the command fails and says why.
    A quantised model is quantised again from the same ranges; if its bytes differ, the command says so.
    """
    from secateur.arguments import PATH, parsed
    from secateur.cli.reading import check_packages, example_from, float_model_from, inputs_from, shape_text
    from secateur.outputs import check_outputs, model_files, model_outputs
    from secateur.progress import phase
    from secateur.report.recipe import refitted_path

    parsed("RECIPE", recipe, PATH)
    parsed("--output", output, PATH)
    check_packages(model, output)
    check_outputs(
        model_files(model, weights, recipe, refitted_path(recipe)), model_outputs(output, model), overwrite
    )
    loaded, _ = float_model_from(model, weights)
    read = secateur.Recipe.load(recipe)
    shapes = example_shape or [shape_text(s.shape, s.dtype) for s in read.inputs]
    example = example_from(loaded, inputs_from(model, shapes=shapes))
    if read.quantized is not None:
        check_quantized_output(read.quantized.scheme, output)
    with phase("replaying the recipe", True):
        model_again = secateur.replay(loaded, read, example)
        if read.quantized is None:
            secateur.save_model(output, model_again, example)
        else:
            _save_quantized(output, model_again, read.quantized, example)
    print_result(f"wrote {output}")


def _save_quantized(output: Path, model: nn.Module, record: Quantization, example: ExampleInputs) -> None:
    """Quantise the replayed float model as the recipe says, and tell whether the bytes are the same."""
    from secateur.quantize import quantize_again, runtime

    made = quantize_again(model, record, example)
    if made.record.digest != record.digest:
        say(
            f"the float model is the same bit for bit; the quantised file was made anew by {runtime()} and "
            f"differs from that of {record.runtime}. Its agreement was not measured again"
        )
    made.save(output)
