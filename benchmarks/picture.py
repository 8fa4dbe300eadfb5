"""Draw docs/pruned.svg and print the table of the README, both from docs/results/fidelity.json."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from shared import markdown

DOCS = Path(__file__).resolve().parent.parent / "docs"
NETWORKS = {
    "mnist_mlp": "MNIST, dense",
    "fashion_cnn": "Fashion-MNIST, CNN",
    "fashion_cnn_bn": "Fashion-MNIST, CNN with batch norm",
    "cifar_vgg11": "CIFAR-10, VGG-11 half width",
    "cifar_resnet20": "CIFAR-10, ResNet-20",
}
DRAWN = "0.3"  # share of units removed in the picture


def main() -> None:
    results = json.loads((DOCS / "results" / "fidelity.json").read_text())["results"]
    print(table(results))
    draw(results, DOCS / "pruned.svg")


def median(results: dict[str, Any], network: str, method: str, removed: str, quantity: str) -> float:
    """Over the seeds."""
    start = f"{network}|{method}|{removed}|"
    return statistics.median(row[quantity] for key, row in results.items() if key.startswith(start))


def one_shot(results: dict[str, Any], network: str, removed: str) -> float:
    """The better of Torch-Pruning's two norms."""
    return max(median(results, network, f"one-shot {norm}", removed, "accuracy") for norm in ("L1", "L2"))


def table(results: dict[str, Any]) -> str:
    rows = []
    for network, title in NETWORKS.items():
        cells = [median(results, network, "original", "", "accuracy")]
        for removed in ("0.3", "0.5"):
            cells += [
                median(results, network, method, removed, "accuracy") for method in ("reconstruct", "oracle")
            ]
            cells.append(one_shot(results, network, removed))
        rows.append([title, *(f"{cell:.1f}" for cell in cells)])
    columns = ["30 %: secateur", "real data", "one-shot", "50 %: secateur", "real data", "one-shot"]
    return markdown(["network", "original", *columns], rows)


def draw(results: dict[str, Any], path: Path) -> None:
    """Left: accuracy before and after. Right: parameters before and after."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "secateur"  # the same file every time
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9, 3.3), sharey=True, layout="constrained", width_ratios=(3, 2)
    )
    places = range(len(NETWORKS))
    accuracy = {
        "original": [median(results, n, "original", "", "accuracy") for n in NETWORKS],
        "secateur": [median(results, n, "reconstruct", DRAWN, "accuracy") for n in NETWORKS],
        "one-shot by norm": [one_shot(results, n, DRAWN) for n in NETWORKS],
    }
    style = {
        "original": {"marker": "|", "color": "black", "s": 260, "linewidths": 2.5},
        "secateur": {"marker": "o", "color": "#0072B2", "s": 70},
        "one-shot by norm": {"marker": "X", "color": "#D55E00", "s": 60},
    }
    left.hlines(places, accuracy["one-shot by norm"], accuracy["original"], color="#cccccc", zorder=0)
    for name, values in accuracy.items():
        left.scatter(values, places, label=name, **style[name])
    left.set(xlim=(0, 102), xlabel="test accuracy, %", title="Accuracy")
    left.set_yticks(places, NETWORKS.values())
    left.invert_yaxis()
    left.legend(loc="lower left", bbox_to_anchor=(0.02, 0.3), frameon=False)

    before = [median(results, n, "original", "", "parameters") for n in NETWORKS]
    after = [median(results, n, "reconstruct", DRAWN, "parameters") for n in NETWORKS]
    right.barh(places, [100] * len(before), color="#e6e6e6", height=0.55)
    right.barh(
        places, [100 * b / a for a, b in zip(before, after, strict=True)], color="#0072B2", height=0.55
    )
    for place, a, b in zip(places, before, after, strict=True):
        right.text(
            97,
            place,
            f"{a / 1000:,.0f}k → {b / 1000:,.0f}k",
            va="center",
            ha="right",
            color="black",
            fontsize=9,
        )
    right.set(xlim=(0, 100), xlabel="parameters, % of the original", title="Size")

    for axis in (left, right):
        axis.tick_params(axis="y", length=0)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("30 % of the units removed at once, without data and without retraining")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
