"""`secateur ops`."""

from __future__ import annotations

from secateur.cli.options import AsJson, Debug
from secateur.cli.printing import print_json, print_line


def ops_command(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the ops that secateur knows, and what it can do with each.

    One line for each ATen op: whether units pass through it (coupled; whole: it pins them), whether its
    weight can be refitted, whether its value and its change can be bounded (interval, difference), how linear
    bounds pass it, and the ONNX ops that are read as it. Other ops are allowed: units that meet them stay.
    """
    from dataclasses import asdict

    from secateur.support import as_text, support

    if as_json:
        print_json([asdict(row) for row in support()])
    else:
        print_line(as_text())
