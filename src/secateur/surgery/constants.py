"""Arguments that are no tensors: constants of the graph, which the pruned graph takes and checks."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx


def check_constants(module: fx.GraphModule, constants: Mapping[str, Any]) -> None:
    """Let the module assert that it is called with the values that its graph was captured with."""
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder" and n.name in constants]
    if not placeholders:
        return
    with module.graph.inserting_before(
        next(n for n in module.graph.nodes if n.op not in ("placeholder", "get_attr"))
    ):
        for node in placeholders:
            value = constants[node.name]
            same = operator.is_ if value is None else operator.eq
            held = module.graph.call_function(same, (node, value))
            text = f"{node.name} must be {value!r}: the model was pruned for this value alone"
            module.graph.call_function(torch._assert, (held, text))
    module.recompile()
