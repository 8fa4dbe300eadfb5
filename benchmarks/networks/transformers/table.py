"""The networks, one row each, settled before training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from .models import Bert, Gpt, Llama, Vit

Task = Literal["classes", "next", "masked"]

LENGTH = 128  # tokens of a sequence
VOCABULARY = 1024


@dataclass(frozen=True)
class Network:
    """How one network is built and trained.

    Attributes:
        data: a row of `networks.data.DATA`, or of `texts.TEXTS`.
        passes: over the training data.
        rate: the highest learning rate of the one-cycle schedule (AdamW, decay 0.05).
        batch: pictures, or sequences of LENGTH tokens.
    """

    name: str
    task: Task
    data: str
    build: Callable[[float], nn.Module]  # of the dropout while training
    passes: float
    rate: float
    batch: int
    dropout: float = 0.0


def _llama(_: float) -> nn.Module:
    return Llama(VOCABULARY, LENGTH, 192, 512, 6, 6, 2)


def _bert(dropout: float) -> nn.Module:
    return Bert(VOCABULARY, LENGTH, 96, 4, 6, dropout)


def _gpt(dropout: float) -> nn.Module:
    return Gpt(VOCABULARY, LENGTH, 96, 4, 6, dropout)


def _fashion(dropout: float) -> nn.Module:
    return Vit(1, 28, 96, 6, 6, 10, dropout=dropout)


def _cifar(dropout: float) -> nn.Module:
    return Vit(3, 32, 96, 6, 6, 10, pooled=True, stem=True, dropout=dropout)


ROWS = (
    Network("fashion_vit", "classes", "fashion_mnist", _fashion, 40, 2e-3, 256),
    Network("text_llama", "next", "python", _llama, 8, 3e-3, 64),
    Network("text_bert", "masked", "fortunes", _bert, 60, 3e-3, 64),
    Network("text_gpt", "next", "fortunes", _gpt, 12, 3e-3, 64),
    Network("cifar_vit", "classes", "cifar10", _cifar, 120, 2e-3, 512),
)
NETWORKS = {row.name: row for row in ROWS}
