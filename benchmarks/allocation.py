"""Whether a global allocation is worth more than the same share of every group.

    python benchmarks/allocation.py --output docs/results

The networks are those of `benchmarks/networks` (trained weights in `networks/weights`); by default the half
that only serves to report. Each is pruned by the default method with both allocations, at the same share of
multiply-accumulates, parameters or units. What is reported: accuracy of classifiers, R² of regressors, F1 of
detectors, in % on all test samples. Rows that allocation.json already holds are kept, so that the run can be
made in parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import networks
import secateur
from shared import arguments, machine, markdown
from unseen import WEIGHTS

ALLOCATIONS = ("uniform", "global")

Row = dict[str, Any]


def main() -> None:
    parser = arguments("")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    parser.add_argument("--remove", nargs="*", default=["macs=50%", "units=30%"], help="what goes")
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="trained networks")
    parser.add_argument("--networks", nargs="*", help="only those whose names hold one of these")
    options = parser.parse_args()
    path = options.output / "allocation.json"
    rows: dict[str, Row] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in networks.names(options.half, options.folder):
        if options.networks and not any(part in name for part in options.networks):
            continue
        try:
            network = networks.load(name, options.folder)
        except FileNotFoundError:
            print(f"{name}: its data are not there; train it anew to have them")
            continue
        for remove in options.remove:
            for allocation in ALLOCATIONS:
                key = f"{name}|{allocation}|{remove}"
                if key not in rows:
                    try:
                        rows[key] = measured(network, allocation, remove)
                    except secateur.errors.TargetMissedError as error:
                        print(f"{key}: {error}")
                        continue
                    print(key, rows[key], flush=True)
                    options.output.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = tables(rows, options.remove)
    (options.output / "allocation.md").write_text(report)
    print(report)


def measured(network: networks.Network, allocation: str, remove: str) -> Row:
    """The measure of one pruned network, beside the original's, and what is left of it."""
    (kind, original), *_ = network.measures.items()
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", secateur.errors.SecateurWarning)
        result = secateur.prune(
            network.model,
            network.example,
            remove=remove,
            round_to=1,
            allocation=allocation,
            **network.options,
        )
    return {
        "measure": kind,
        "original": original,
        "value": network.measure(result.model)[kind],
        "left": {
            name: getattr(result.after, name) / getattr(result.before, name)
            for name in ("parameters", "macs", "units")
        },
        "seconds": round(time.perf_counter() - begin, 1),
    }


def tables(rows: dict[str, Row], amounts: list[str]) -> str:
    parts = ["# Global and uniform allocation\n", (__doc__ or "").split("\n\n", 2)[2]]
    for remove in amounts:
        names = dict.fromkeys(k.split("|")[0] for k in rows)
        found = [
            (name, *pair)
            for name in names
            if None not in (pair := [rows.get(f"{name}|{a}|{remove}") for a in ALLOCATIONS])
        ]
        if found:
            gains = sorted(100 * (scored["value"] - alike["value"]) for _, alike, scored in found)
            parts.append(
                f"## {remove} removed\n\nGlobal beyond uniform, in points: lowest {gains[0]:.1f}, median "
                f"{statistics.median(gains):.1f}, highest {gains[-1]:.1f}.\n"
            )
            header = ["network", "measure", "original", *ALLOCATIONS]
            parts.append(markdown(header, [_line(*row) for row in found]))
    return "\n".join(parts)


def _line(name: str, alike: Row, scored: Row) -> list[str]:
    values = [f"{100 * max(row['value'], -1):.1f}" for row in (alike, scored)]
    return [f"`{name}`", alike["measure"], f"{100 * alike['original']:.1f}", *values]


if __name__ == "__main__":
    main()
