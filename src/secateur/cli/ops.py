"""`secateur ops`."""

from __future__ import annotations

from typing import Annotated

from typer import Argument

from secateur.cli.options import AsJson, Debug
from secateur.cli.printing import print_json, print_line

Ops = Annotated[
    list[str] | None,
    Argument(
        metavar="OP",
        show_default=False,
        help="Names of ops, in ATen or in ONNX, e.g. conv2d or Conv. Default: all.",
    ),
]


def ops_command(ops: Ops = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the ops that secateur knows, and what it can do with each.

    One line for each ATen op: whether units pass through it (coupled; whole: it pins them), whether its
    weight can be refitted, whether its value and its change can be bounded (interval, difference), how linear
    bounds pass it, and the ONNX ops that are read as it. Other ops are allowed: units that meet them stay.
    """
    from dataclasses import asdict

    from secateur.support import as_text, named

    rows = named(ops or ())
    if as_json:
        print_json([asdict(row) for row in rows])
    else:
        print_line(as_text(rows))
