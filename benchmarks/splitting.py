"""Splitting the input box: the bound over what a search finds, by the number of inputs and of boxes.

Median of three random networks, two hidden layers of 12 and 8 units, 40 % of them removed by `saliency`.
"""

from __future__ import annotations

import statistics

import torch
from torch import nn

import secateur
from shared import arguments, markdown, write

BOXES = (1, 100, 600)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--inputs", nargs="*", type=int, default=[2, 4, 8])
    options = parser.parse_args()
    rows = {n: [statistics.median(row) for row in zip(*ratios(n), strict=True)] for n in options.inputs}
    lines = [[str(n), *(f"{ratio:.2f}" for ratio in found)] for n, found in rows.items()]
    write(options.output, "splitting", markdown(["inputs", *(f"{n} boxes" for n in BOXES)], lines), rows)


def ratios(inputs: int) -> list[list[float]]:
    found = []
    for seed in (0, 2, 4):
        torch.manual_seed(seed)
        layers = [nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)]
        model = nn.Sequential(*layers).eval()
        with torch.no_grad():
            model[0].weight.mul_(3)
        small = secateur.prune(model, torch.rand(2, inputs), remove=0.4, method="saliency").model
        row = [secateur.certify(model, small, torch.rand(2, inputs), parts=boxes) for boxes in BOXES]
        found.append([one.drift[0] / one.found[0] for one in row if one.found is not None])
    return found


if __name__ == "__main__":
    main()
