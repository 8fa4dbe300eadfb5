"""What a surrogate may look at: the model, the legal inputs and a seed. Never data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.graph.capture import Graph
from secateur.types import Interval

Inputs = tuple[Tensor, ...]  # one for each input of the graph, axis 0 = samples


@dataclass(frozen=True, eq=False)
class Source:
    """Of what surrogates are made. All randomness comes from `generator`: the same seed gives the same bits."""

    graph: Graph
    box: tuple[Interval, ...]  # float32, batch 1, one for each input
    generator: torch.Generator
