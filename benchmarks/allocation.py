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
import statistics
from pathlib import Path

import networks
import secateur
from shared import arguments, markdown
from unseen import WEIGHTS, Row, loaded, measured, read, write

ALLOCATIONS = ("uniform", "global")


def main() -> None:
    parser = arguments("")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    parser.add_argument("--remove", nargs="*", default=["macs=50%", "units=30%"], help="what goes")
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="trained networks")
    parser.add_argument("--networks", nargs="*", help="only those whose names hold one of these")
    options = parser.parse_args()
    path = options.output / "allocation.json"
    rows = read(path)
    names = networks.names(options.half, options.folder)
    chosen = [n for n in names if not options.networks or any(part in n for part in options.networks)]
    for network in loaded(chosen, options.folder):
        for remove in options.remove:
            for allocation in ALLOCATIONS:
                key = f"{network.name}|{allocation}|{remove}"
                if key in rows:
                    continue
                try:
                    rows[key], result = measured(network, remove=remove, allocation=allocation)
                except secateur.errors.TargetMissedError as error:
                    print(f"{key}: {error}")
                    continue
                rows[key]["left"] = {
                    name: getattr(result.after, name) / getattr(result.before, name)
                    for name in ("parameters", "macs", "units")
                }
                write(path, rows, key)
    report = tables(rows, options.remove)
    (options.output / "allocation.md").write_text(report)
    print(report)


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
