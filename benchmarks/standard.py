"""The networks that papers on pruning prune, without data and with 2,000 training images.

    cd benchmarks
    python -m networks.standard --packages DIR --output WEIGHTS [--device cuda]
    python standard.py --weights WEIGHTS [--output DIR]

ResNet-18, VGG-16 and ResNet-50 on CIFAR-10, in one shot, with `allocation="global"`. What is reported:
accuracy on all test images, in %, beside what papers report of their own checkpoints, on which results differ
much. Rows that standard.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import secateur
from networks import standard
from networks.data import published
from secateur.errors import SecateurWarning
from shared import arguments, machine, markdown

# What goes, and what papers report: (network, amount, accuracy before → after, by whom).
ROWS = (
    ("resnet18", "params=50%", "94.7 → 88, Model Folding (2502.10216)"),
    ("resnet18", "params=65%", "17.6 → 84.8, GRAIL (repairs an L1 pruning on 128 real images)"),
    ("vgg16", "params=64%", "93.7 → 93.2, Neuron Merging (2010.13160)"),
    ("resnet50", "macs=75%", "95.0 → 91.0, ModHiFi on synthetic images (2511.19566)"),
)
METHODS: dict[str, dict[str, Any]] = {"default": {}, "real data": {"surrogate": "none"}}


def main() -> None:
    parser = arguments("")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--weights", type=Path, required=True, help="folder of the trained networks")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--networks", nargs="*", default=sorted({name for name, *_ in ROWS}))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "standard.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    warnings.simplefilter("ignore", SecateurWarning)
    for name, remove, _ in ROWS:
        for method in METHODS:
            key = f"{name}|{remove}|{method}"
            if key not in rows and name in options.networks:
                rows[key] = row(name, remove, method, options)
                print(key, rows[key], file=sys.stderr, flush=True)
                path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = "# Networks of the papers\n\n" + (__doc__ or "").split("\n\n", 2)[2] + "\n" + table(rows)
    (options.output / "standard.md").write_text(report)
    print(report)


def row(name: str, remove: str, method: str, options: argparse.Namespace) -> dict[str, Any]:
    model = standard.load(name, options.weights)
    test, oracle = published("cifar10", options.shared / "data")
    how = METHODS[method] | ({"calibration": oracle.images} if method == "real data" else {})
    begin = time.perf_counter()
    result = secateur.prune(
        model,
        standard.normalised(torch.full((1, 3, 32, 32), 0.5)),
        remove=remove,
        allocation="global",
        samples=options.samples,
        mean=standard.MEAN,
        std=standard.STD,
        **how,
    )
    seconds = time.perf_counter() - begin
    after = result.history[-1]
    return {
        "before": standard.accuracy(model, test),
        "after": standard.accuracy(result.model, test),
        "parameters": after.parameters / result.before.parameters,
        "macs": after.macs / result.before.macs,
        "seconds": round(seconds),
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name, remove, theirs in ROWS:
        found = [rows.get(f"{name}|{remove}|{method}") for method in METHODS]
        if first := next((f for f in found if f), None):
            left = (f"{100 * first[of]:.0f} %" for of in ("parameters", "macs"))
            values = (f"{100 * f['after']:.1f}" if f else "" for f in found)
            lines.append([f"`{name}`", remove, *left, f"{100 * first['before']:.1f}", *values, theirs])
    header = ["network", "removed", "parameters left", "MACs left", "before", *METHODS, "published"]
    return markdown(header, lines)


if __name__ == "__main__":
    main()
