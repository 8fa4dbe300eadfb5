"""`secateur init`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.cli.options import Debug, Model, Overwrite, Shapes, Weights
from secateur.cli.printing import print_result
from secateur.errors import InputError
from secateur.formats.registry import listed, suffixes_read
from secateur.printable import printable

if TYPE_CHECKING:
    from torch import Tensor

    from secateur.graph.graph import Graph
    from secateur.inputs import InputSpec
    from secateur.normalisation import Finding


def init_command(
    model: Model,
    weights: Weights = None,
    example_shape: Shapes = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """Write a first settings file next to a model, for you to check.

    The file, net.yaml for net.onnx, says what the model takes: shapes, range and normalisation. All commands
    read it. Where nothing tells the normalisation, the likeliest is written down, guessed from the model
    itself.
    """
    from secateur.arguments import PATH, parsed
    from secateur.cli.reading import example_from, inputs_from, model_from
    from secateur.files import write_atomically
    from secateur.graph.capture import capture
    from secateur.inputs import InputSpec, settings_path
    from secateur.normalisation import likely_normalisation
    from secateur.progress import phase

    path = settings_path(parsed("MODEL", model, PATH))
    if ":" in path.name:
        raise InputError(
            f"{model}: a settings file stands next to a file; save the model as {listed(suffixes_read())}"
        )
    if path.exists() and not overwrite:
        raise InputError(f"{path} is there already; edit it, or replace it with --overwrite")
    settings = () if example_shape is None else tuple(example_shape)
    given = InputSpec(example_shape=settings) if path.exists() else inputs_from(model, shapes=example_shape)
    loaded = model_from(model, weights)
    with phase("looking at the model", True):
        graph = capture(loaded, example_from(loaded, given))
        finding = None if given.declared else likely_normalisation(graph, given.input_bounds)
    content = _settings(model, graph, given, finding)
    write_atomically(path, lambda file: file.write(content.encode()))
    print_result(f"wrote {path}; check what it says")


def _settings(model: str, graph: Graph, given: InputSpec, finding: Finding | None) -> str:
    if finding is None:
        said = _normalisation(given.mean, given.std)
    elif finding.clear and finding.preset is not None:
        given = given.model_copy(update={"input_bounds": finding.preset.bounds})
        said = [f"# A guess: {finding.evidence}", *_normalisation(finding.preset.mean, finding.preset.std)]
    else:
        said = [f"# {finding.evidence}", *_OPEN]
    low, high = given.input_bounds
    lines = [
        f"# What {Path(model).name} takes. Commands of secateur read this file; their options go before it.",
        "example_shape:  # of one input, without the batch axis",
        *(f'  - "{_shape(x)}"  # {node.name}' for node, x in zip(graph.inputs, graph.example, strict=True)),
        f"input_bounds: [{low:g}, {high:g}]  # of the images, before they are normalised",
        *said,
    ]
    return "\n".join(map(printable, lines)) + "\n"


_OPEN = (
    "# Say how training normalised the images: none, imagenet, cifar10 or minus1to1; or give mean and std.",
    "# normalize: none",
)


def _normalisation(mean: Sequence[float], std: Sequence[float]) -> list[str]:
    if not mean:
        return ["normalize: none"]
    return [
        f"{name}: [{', '.join(f'{x!r}' for x in values)}]" for name, values in (("mean", mean), ("std", std))
    ]


def _shape(x: Tensor) -> str:
    sizes, dtype = tuple(x.shape[1:]), str(x.dtype).removeprefix("torch.")
    return ",".join(map(str, sizes)) + ("" if dtype == "float32" else f":{dtype}")
