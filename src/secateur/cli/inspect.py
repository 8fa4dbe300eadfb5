"""`secateur inspect`."""

from __future__ import annotations

import secateur
from secateur.cli.options import AsJson, Debug, Model, Shapes, Weights
from secateur.cli.printing import print_json, print_table


def inspect_command(
    model: Model,
    weights: Weights = None,
    example_shape: Shapes = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what can be pruned, what cannot, and why.

    Lists groups of units (neurons, channels, attention heads) that can only be removed together, and the
    weights that make and read them. A pinned group stays whole, for the reason given. Changes nothing.
    """
    from secateur import explain
    from secateur.cli.reading import example_from, inputs_from, model_from
    from secateur.progress import phase

    loaded = model_from(model, weights)
    example = example_from(loaded, inputs_from(model, shapes=example_shape))
    with phase("capturing the model", True):
        coupling = secateur.inspect(loaded, example)
    if not as_json:
        print_table(("group", "units", "made by | read by", "state"), explain.rows(coupling))
        return
    groups = [
        {
            "name": g.name,
            "units": g.units,
            "pinned": g.pinned or None,
            "slots": [{"tensor": s.tensor, "axis": s.axis, "role": s.role} for s in g.slots],
        }
        for g in coupling.groups
    ]
    print_json({"groups": groups, "blocked": dict(coupling.blocked)})
