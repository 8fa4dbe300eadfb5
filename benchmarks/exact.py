"""What can leave each network of the zoo with no change of its function over [0, 1], and that nothing else
changes.

Accuracy on the first 1,000 test images, the largest move of an output on the first 200. Test images only
measure.
"""

from __future__ import annotations

import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import secateur
from secateur.errors import NothingToPruneError
from shared import arguments, load_zoo, markdown, test_data, write

IMAGES, MOVED = 1000, 200


def measured(zoo: ModuleType, name: str, shared: Path) -> dict[str, Any]:
    model = zoo.load(name).eval()
    images, labels = (x[:IMAGES] for x in test_data(zoo, name, shared))
    units = sum(group.units for group in secateur.inspect(model, images[:2]).prunable)
    begin = time.perf_counter()
    try:
        result = secateur.prune(model, images[:2], method="exact")
        small, left = result.model, units - result.history[-1].units_removed
    except NothingToPruneError:
        small, left = model, units
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        before, after = model(images), small(images)
    right = [(outputs.argmax(1) == labels).double().mean().item() for outputs in (before, after)]
    drift = (after - before)[:MOVED].abs().max().item()
    return {"units": units, "left": left, "accuracy": right, "drift": drift, "seconds": seconds}


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    zoo = load_zoo(options.shared)
    record = {name: measured(zoo, name, options.shared) for name in zoo.NAMES}
    header = ("network", "units", "free", "share", "accuracy % before", "after", "largest move", "seconds")
    rows = [
        (
            name,
            f"{r['units']:,}",
            f"{r['units'] - r['left']:,}",
            f"{1 - r['left'] / r['units']:.1%}",
            *(f"{100 * a:.1f}" for a in r["accuracy"]),
            f"{r['drift']:.1e}",
            f"{r['seconds']:.1f}",
        )
        for name, r in record.items()
    ]
    write(options.output, "exact", markdown(header, rows), record)


if __name__ == "__main__":
    main()
