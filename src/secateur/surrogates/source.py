"""What a surrogate may look at: the model, the legal inputs, the tokenizer's files and a seed. Never data."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from secateur.decisions import Decision, decision_of
from secateur.graph.footprint import Footprint, footprint, multiplications
from secateur.graph.graph import Graph
from secateur.graph.meaning import Meaning, meanings
from secateur.surrogates.text import Text, text_of
from secateur.types import Interval, Tokenizer

Inputs = tuple[Tensor, ...]  # one for each input of the graph, axis 0 = samples


@dataclass(frozen=True, eq=False)
class Source:
    """The inputs of a surrogate. All randomness comes from `generator`: the same seed gives the same bits."""

    graph: Graph
    box: tuple[Interval, ...]  # float32, batch 1, one for each input
    generator: torch.Generator
    memory: int = 2**30  # bytes that values between layers may take
    tokenizer: Tokenizer | None = None  # of a model that takes tokens, where its files are known

    @cached_property
    def sizes(self) -> Footprint:
        """Of the model's values."""
        return footprint(self.graph)

    @cached_property
    def work(self) -> float:
        """Multiply-accumulates of a forward pass of one sample, roughly."""
        return multiplications(self.graph, self.sizes)

    @cached_property
    def decision(self) -> Decision | None:
        """What the model decides; several outputs are taken for classes, whatever makes them."""
        found = decision_of(self.graph, one_of_k=True)
        return found if isinstance(found, Decision) else None

    @cached_property
    def meaning(self) -> Meaning:
        """What the first output is."""
        return meanings(self.graph.nodes)[self.graph.outputs[0]]

    @cached_property
    def text(self) -> Text | None:
        """What the model does with tokens; None where no input takes sequences of them."""
        return text_of(self.graph)
