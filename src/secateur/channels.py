"""Numbers of channels that runtimes compute fast, as measured by `benchmarks/channels.py` (decision 0010)."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph
from secateur.graph.labels import FIXED
from secateur.graph.node import bound_arguments, kind
from secateur.graph.owners import owners

BLOCK = 16  # channels that a 2-D convolution computes together: its time grows in steps of this many
# off multiples of it, onnxruntime leaves its blocked layout, and a convolution takes up to four times as long
_ALIGNED = 4


def block_units(graph: Graph, coupling: Coupling) -> dict[str, int]:
    """For each group the least number of units that fills whole blocks in all of its 2-D convolutions.

    1 for groups that are not rounded: no such convolution has as many channels as a block, or each unit fills
    blocks.
    """
    names, owner = owners(coupling)
    found = dict.fromkeys(names, 1)
    for node in graph.nodes:
        if node.op != "call_function" or kind(node) != "conv2d":
            continue
        a = bound_arguments(node, node.args, node.kwargs)
        for value in (a["input"], node):
            channels = _units_of_channels(coupling.units[value])
            # Depthwise convolutions run as one; other grouped ones fill blocks group by group.
            parts = 1 if a["groups"] == coupling.units[a["input"]].shape[1] else a["groups"]
            if len(channels) // parts < BLOCK:
                continue
            counts = torch.bincount(owner[channels[channels != FIXED]], minlength=len(names) + 1)
            for name, count in zip(names, counts.tolist(), strict=False):
                width = count // len(coupling.ids[name]) // parts  # channels of one unit
                if width:
                    found[name] = max(found[name], BLOCK // gcd(BLOCK, width))
    return found


def _units_of_channels(units: Tensor) -> Tensor:
    """Shape: (channels,) of a value (batch, channels, height, width)."""
    return units[0, :, 0, 0]


def aligned_units(block: int) -> int:
    """The least multiple of units that onnxruntime computes in its blocked layout; `block` fill a block."""
    return max(1, block * _ALIGNED // BLOCK)


def kept_counts(units: int, block: int) -> list[int]:
    """The numbers of units that a group may keep, descending: all, multiples, then halves of the least.

    Multiples of `block`, or of half or a quarter of it in groups of less than two blocks: they shrink, too.
    """
    multiple = block
    while multiple > max(aligned_units(block), units // 2):
        multiple //= 2
    multiples = range(units // multiple * multiple, 0, -multiple)
    halves = [multiple >> n for n in range(1, multiple.bit_length())]
    return [units, *(count for count in (*multiples, *halves) if count < units)]
