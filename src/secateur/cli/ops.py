"""`secateur ops`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument, Option

from secateur.cli.options import OUTPUT, AsJson, Debug
from secateur.cli.printing import print_json, print_line

Ops = Annotated[
    list[str] | None,
    Argument(
        metavar="OP",
        show_default=False,
        help="Names of ops, in ATen or in ONNX, e.g. conv2d or Conv; with --keras, of layers, e.g. Conv2D. "
        "Default: all.",
    ),
]
Keras = Annotated[
    bool,
    Option(
        "--keras",
        rich_help_panel=OUTPUT,
        help="List the layers of Keras that are read, and the sizes in the configuration of each that "
        "pruning makes smaller. Where there are none, units pass through the layer.",
    ),
]


def ops_command(ops: Ops = None, keras: Keras = False, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the ops that secateur knows, and what it can do with each.

    One line for each ATen op: whether units pass through it (coupled; whole: it pins them), whether its
    weight can be refitted, whether its value and its change can be bounded (interval, difference), how linear
    bounds pass it, and the ONNX ops that are read as it. Other ops are allowed: units that meet them stay.
    """
    from dataclasses import asdict

    from secateur import support
    from secateur.formats.keras import support as layers

    rows = layers.named(ops or ()) if keras else support.named(ops or ())
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        print_line(support.as_text(layers.COLUMNS if keras else support.COLUMNS, rows))
