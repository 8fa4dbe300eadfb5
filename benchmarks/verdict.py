"""Verdict against truth: what `prune` says of its results on networks of the zoo, and their agreement on test
images.

Two verdicts a run: on surrogates, and on 150 test images given as calibration, a third of which judge. Test
images after these give the true agreement; they choose nothing. The rule was chosen on the networks of
`CHOSEN_ON`; the others were kept apart. Rows that verdict.json already holds are kept, so that the run can be
made in parts.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import secateur
from shared import arguments, load_zoo, machine, markdown, test_data

CHOSEN_ON = ("mnist_mlp", "fashion_mlp", "fashion_cnn")
RUNS = (
    *(("reconstruct", share) for share in (0.3, 0.5, 0.7)),
    *(("ridge", 0.5), ("scale", 0.1), ("scale", 0.25)),
)
OWN = 150  # images given as calibration
TITLES = {
    "surrogates": "On surrogates",
    "own": f"On own images: {OWN // 3} of {OWN} kept apart, all {OWN} where nothing is solved",
}


HEAD = """# The verdict and the truth

`benchmarks/verdict.py`: networks of the zoo, pruned by three methods, and what the verdict says beside the agreement on 4,000 test images that no run
has seen. *Chosen on*: the rule's thresholds and odds were chosen on `mnist_mlp`, `fashion_mlp` and `fashion_cnn`; the others were kept apart.

![Agreement by the verdict and its interval, over the true agreement](verdict.svg)

How far agreement on surrogates understates: in the median, the odds that a decision changes on real inputs are {middle:.2f} of those on the drawings
that judge (lowest {low:.2f}, highest {high:.2f}).
"""  # noqa: E501


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", help="names in the zoo (default: all)")
    parser.add_argument("--samples", type=int, default=512, help="of surrogates that reconstruct solves on")
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    path = options.output / "verdict.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in options.networks or zoo.NAMES:
        for method, removed in RUNS:
            for own in (False, True):
                key = f"{name}|{method}|{removed}|{'own' if own else 'surrogates'}"
                if key not in rows:
                    rows[key] = row(zoo, name, method, removed, own, options.shared, options.samples)
                    print(key, rows[key], file=sys.stderr, flush=True)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = tables(rows)
    (options.output / "verdict.md").write_text(report)
    print(report)
    plot(rows, options.output / "verdict.svg")


def row(
    zoo: Any, name: str, method: str, removed: float, own: bool, shared: Path, samples: int
) -> dict[str, Any]:
    model = zoo.load(name)
    images, labels = test_data(zoo, name, shared)
    mine, unseen = images[:OWN], images[OWN : OWN + 4000]
    settings: dict[str, Any] = {"calibration": mine} if own else {}
    result = secateur.prune(
        model, images[:2], method=method, remove=removed, samples=samples, normalize="none", **settings
    )
    verdict = result.verdict
    assert verdict is not None and verdict.interval is not None
    report = secateur.evaluate(result.model, unseen, labels[OWN : OWN + 4000], original=zoo.load(name))
    return {
        "word": verdict.word,
        "agreement": verdict.agreement,
        "interval": list(verdict.interval),
        "inputs": verdict.inputs,
        "true": report.agreement,
        "accuracy": report.accuracy[1],
        "original_accuracy": (report.original_accuracy or {})[1],
    }


# --- report -------------------------------------------------------------------------------------------------


def tables(rows: dict[str, dict[str, Any]]) -> str:
    low, middle, high = odds(rows)
    parts = [HEAD.format(low=low, middle=middle, high=high)]
    for basis, title in TITLES.items():
        lines = [
            [
                *key.split("|")[:3],
                r["word"],
                f"{100 * r['agreement']:.1f}",
                f"{100 * r['interval'][0]:.1f} to {100 * r['interval'][1]:.1f}",
                f"{100 * r['true']:.1f}",
                "yes" if r["interval"][0] <= r["true"] <= r["interval"][1] else "no",
            ]
            for key, r in rows.items()
            if key.endswith(basis)
        ]
        parts.append(f"## {title}\n\n{summary(rows, basis)}")
        columns = ["network", "method", "removed", "verdict", "agreement %", "interval %", "true %", "holds"]
        parts.append(markdown(columns, lines))
    return "\n".join(parts)


def odds(rows: dict[str, dict[str, Any]]) -> tuple[float, float, float]:
    """Of a change on real inputs, in units of those on surrogates: lowest, median, highest."""
    found = [
        (1 - r["true"]) / r["true"] / ((1 - r["agreement"]) / r["agreement"])
        for key, r in rows.items()
        if key.endswith("surrogates") and r["agreement"] < 1
    ]
    return min(found), statistics.median(found), max(found)


def summary(rows: dict[str, dict[str, Any]], basis: str) -> str:
    """How often the interval holds the truth, and the true agreement behind each word; chosen on, and kept
    apart.
    """
    lines = []
    for title, wanted in (("chosen on", True), ("kept apart", False)):
        found = [r for k, r in rows.items() if k.endswith(basis) and (k.split("|")[0] in CHOSEN_ON) == wanted]
        if not found:
            continue
        held = sum(r["interval"][0] <= r["true"] <= r["interval"][1] for r in found)
        below = sum(r["true"] < r["interval"][0] for r in found)
        cells = [title, str(len(found)), f"{held} ({below} lower)"]
        for word in ("fine", "check", "do not use"):
            true = sorted(100 * r["true"] for r in found if r["word"] == word)
            cells.append(f"{len(true)}: {true[0]:.1f} to {true[-1]:.1f}" if true else "0")
        lines.append(cells)
    columns = ["networks", "runs", "interval holds", "fine: true %", "check: true %", "do not use: true %"]
    return markdown(columns, lines)


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """True agreement over the interval that the verdict gave."""
    import matplotlib.pyplot as plt

    colours = {"fine": "#009E73", "check": "#E69F00", "do not use": "#D55E00"}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), sharey=True)
    for axis, basis, title in zip(
        axes, ("surrogates", "own"), ("on surrogates", "on own images"), strict=True
    ):
        for key, r in rows.items():
            if not key.endswith(basis):
                continue
            low, high = (100 * end for end in r["interval"])
            marker = "o" if key.split("|")[0] in CHOSEN_ON else "s"
            axis.plot([100 * r["true"]] * 2, [low, high], color=colours[r["word"]], linewidth=1)
            axis.plot(100 * r["true"], 100 * r["agreement"], marker, color=colours[r["word"]], markersize=4)
        axis.plot([0, 100], [0, 100], color="black", linewidth=0.5)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("true agreement, %")
    axes[0].set_ylabel("agreement by the verdict and its interval, %")
    for word, colour in colours.items():
        axes[1].plot([], [], color=colour, label=word)
    axes[1].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
