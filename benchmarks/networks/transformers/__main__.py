"""Train the transformers whose weights are not there yet, one after the other.

    cd benchmarks
    python -m networks.transformers --packages DIR [--device cuda] [NAME …]

On a GPU each takes a few minutes, on two cores hours. DIR holds the packages that `networks/packages.py` and
`texts.py` name. Held-out data only measure here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .. import data
from ..command import arguments
from . import store, texts, training
from .table import NETWORKS, Network


def main() -> None:
    parser = arguments(__doc__, "networks.transformers", "train these, whether trained or not")
    asked = parser.parse_args()
    for name in asked.names or [name for name in NETWORKS if name not in store.read_index()]:
        row = NETWORKS[name]
        (x, labels), test = samples(row, asked.packages)
        model, trained = training.train(row, x, labels, device=asked.device)
        parameters = sum(p.numel() for p in model.parameters())
        store.save(name, model, {"parameters": parameters, **trained})
        measured = training.measure(row, store.load(name), *test)  # in the precision that is kept
        store.save(name, model, {**measured, "parameters": parameters, **trained})
        print(name, measured, trained, flush=True)


def samples(row: Network, packages: Path) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Training and test inputs with their labels; those of text are empty."""
    if row.task == "classes":
        train, test = data.training(row.data, packages)
        return (train.images, train.labels), (test.images, test.labels)
    path = store.FOLDER / f"{row.data}.json"
    if not path.is_file():
        texts.learned(texts.parts(row.data, packages)[0]).save(str(path))
    first, second = store.sequences(row.name, packages)
    return (first, torch.empty(len(first), 0)), (second, torch.empty(len(second), 0))


if __name__ == "__main__":
    main()
