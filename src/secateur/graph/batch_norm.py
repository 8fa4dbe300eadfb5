"""Batch norms of a graph: which one follows a layer, and the statistics that it remembers."""

from __future__ import annotations

from torch import fx

from secateur.graph.graph import tensor_name
from secateur.graph.node import bound_arguments, kind


def batch_norm_after(node: fx.Node) -> fx.Node | None:
    """The batch norm that alone reads the node's value; None where there is none."""
    users = list(node.users)
    if len(users) != 1 or kind(users[0]) != "batch_norm" or users[0].all_input_nodes[0] is not node:
        return None
    return users[0]


def running_statistics(node: fx.Node) -> tuple[str, str] | None:
    """The names of the running mean and variance of a batch norm; None where there are none."""
    if kind(node) != "batch_norm":
        return None
    a = bound_arguments(node, node.args, node.kwargs)
    mean, variance = tensor_name(a["running_mean"]), tensor_name(a["running_var"])
    return (mean, variance) if mean is not None and variance is not None else None
