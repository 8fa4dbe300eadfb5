"""How pruning without data fares on networks that no rule was chosen on.

    python benchmarks/unseen.py --output docs/results

The networks are those of `benchmarks/networks` (trained weights in `networks/weights`); by default the
half that only serves to report. Each is pruned by the default method, by the same on its real data (2,000
training samples), and by methods that look at no inputs. What is reported: accuracy of classifiers, R² of
regressors, F1 of detectors, in % on all test samples, and gap closure = (ours − best without inputs) / (real
data − best without inputs), where real data gain at least a point over the latter. Rows that unseen.json
already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import networks
import secateur
from shared import arguments, machine, markdown

METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "real data": {"calibration": "oracle"},
    "ridge": {"method": "ridge"},
    "saliency": {"method": "saliency"},
}
WITHOUT_INPUTS = ("ridge", "saliency")
LEAST_GAIN = 0.01  # of real data over methods without inputs, for a gap to be closed
WEIGHTS = Path(__file__).resolve().parent / "networks" / "weights"

Row = dict[str, Any]


def main() -> None:
    parser = arguments("")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--half", choices=("choose", "report"), default="report")
    parser.add_argument(
        "--remove", type=float, nargs="*", default=[0.3, 0.5, 0.7], help="shares of the units"
    )
    parser.add_argument("--folder", type=Path, default=WEIGHTS, help="trained networks")
    options = parser.parse_args()
    path = options.output / "unseen.json"
    rows = read(path)
    for network in loaded(networks.names(options.half, options.folder), options.folder):
        for remove in options.remove:
            for method, how in METHODS.items():
                key = f"{network.name}|{method}|{remove:g}"
                if key not in rows:
                    own = {"calibration": network.oracle.images} if "calibration" in how else {}
                    rows[key], _ = measured(network, remove=remove, **how | own)
                    write(path, rows, key)
    report = tables(rows, options.remove)
    (options.output / "unseen.md").write_text(report)
    print(report)


def loaded(names: Iterable[str], folder: Path) -> Iterator[networks.Network]:
    """The trained networks of these names whose data are there."""
    for name in names:
        try:
            yield networks.load(name, folder)
        except FileNotFoundError:
            print(f"{name}: its data are not there; train it anew to have them")


def read(path: Path) -> dict[str, Row]:
    """The rows that were measured before."""
    return json.loads(path.read_text())["results"] if path.is_file() else {}


def write(path: Path, rows: dict[str, Row], key: str) -> None:
    """Keep the rows, of which that of `key` is new."""
    print(key, rows[key], flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")


def measured(network: networks.Network, **request: Any) -> tuple[Row, secateur.Result]:
    """The measure of one pruned network, beside the original's."""
    (kind, original), *_ = network.measures.items()
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", secateur.errors.SecateurWarning)
        result = secateur.prune(network.model, network.example, round_to=1, **network.options, **request)
    seconds = time.perf_counter() - begin
    row = {
        "measure": kind,
        "original": original,
        "value": network.measure(result.model)[kind],
        "seconds": round(seconds, 1),
    }
    return row, result


def tables(rows: dict[str, Row], ratios: Sequence[float]) -> str:
    parts = ["# Networks that no rule was chosen on\n", (__doc__ or "").split("\n\n", 2)[2]]
    for remove in ratios:
        names = [n for n in dict.fromkeys(k.split("|")[0] for k in rows) if f"{n}|default|{remove:g}" in rows]
        if names:
            lines = [_line(rows, name, remove) for name in names]
            header = ["network", "measure", "original", *METHODS, "closure", "s"]
            parts.append(f"## {remove:.0%} of the units\n\n{_summary(rows, names, remove)}\n")
            parts.append(markdown(header, lines))
    return "\n".join(parts)


def _line(rows: dict[str, Row], name: str, remove: float) -> list[str]:
    found = {method: rows.get(f"{name}|{method}|{remove:g}") for method in METHODS}
    ours = rows[f"{name}|default|{remove:g}"]
    closed = closure(rows, name, remove)
    values = ["" if row is None else f"{100 * max(row['value'], -1):.1f}" for row in found.values()]
    return [
        f"`{name}`",
        ours["measure"],
        f"{100 * ours['original']:.1f}",
        *values,
        "" if closed is None else f"{closed:.2f}",
        f"{ours['seconds']:.0f}",
    ]


def _summary(rows: dict[str, Row], names: Sequence[str], remove: float) -> str:
    closed = [c for name in names if (c := closure(rows, name, remove)) is not None]
    behind = [
        rows[f"{name}|real data|{remove:g}"]["value"] - rows[f"{name}|default|{remove:g}"]["value"]
        for name in names
        if f"{name}|real data|{remove:g}" in rows
    ]
    parts = []
    if closed:
        parts.append(f"Gap closure: median {statistics.median(closed):.2f}, lowest {min(closed):.2f}.")
    if behind:
        points = [100 * b for b in behind]
        parts.append(
            f"Behind real data: median {statistics.median(points):.1f} points, most {max(points):.1f}."
        )
    return " ".join(parts)


def closure(rows: dict[str, Row], name: str, remove: float) -> float | None:
    """Share of the gap between methods without inputs and real data that is closed; None without a gap."""
    keys = {method: f"{name}|{method}|{remove:g}" for method in METHODS}
    if not all(key in rows for key in keys.values()):
        return None
    floor = max(max(rows[keys[method]]["value"], 0.0) for method in WITHOUT_INPUTS)
    gain = rows[keys["real data"]]["value"] - floor
    if gain < LEAST_GAIN:
        return None
    return float((rows[keys["default"]]["value"] - floor) / gain)


if __name__ == "__main__":
    main()
