"""Fronts of size against closeness that `secateur.search` finds on networks of the zoo.

Each network is searched without data, over two ways to spread what is removed; the budget is an agreement of
95 % on surrogates. Test images only measure: their accuracy chooses nothing. A search keeps its trials in
OUTPUT/NAME, so that the script goes on where it was interrupted.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import secateur
from secateur.search.trial import Trial
from shared import arguments, load_zoo, machine, markdown, test_data

NETWORKS = {
    "mnist_mlp": "MNIST, dense",
    "fashion_cnn": "Fashion-MNIST, CNN",
    "cifar_vgg11": "CIFAR-10, VGG-11 half width",
    "cifar_resnet20": "CIFAR-10, ResNet-20",
}
BUDGET = 0.95


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", default=[*NETWORKS], help="names in the zoo")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--images", type=int, default=2000, help="test images that measure each network")
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    path = options.output / "fronts.json"
    rows: dict[str, Any] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in options.networks:
        if name not in rows:
            rows[name] = searched(zoo, name, options)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
            print(name, f"{rows[name]['seconds']:.0f} s", file=sys.stderr, flush=True)
    page = written(rows)
    (options.output / "fronts.md").write_text(page)
    print(page)
    draw(rows, options.output / "fronts.svg")


def searched(zoo: Any, name: str, options: Any) -> dict[str, Any]:
    model = zoo.load(name)
    images, labels = (part[: options.images] for part in test_data(zoo, name, options.shared))
    begin = time.perf_counter()
    found = secateur.search(
        model,
        images[:1],
        output=options.output / "fronts" / name,
        min_agreement=BUDGET,
        allocation=["uniform", "global"],
        trials=options.trials,
        images=images,
        labels=labels,
        progress=True,
    )
    seconds = time.perf_counter() - begin
    report = secateur.evaluate(model, images, labels)
    look = found.summary.look
    return {
        "original": {**found.summary.original.model_dump(), "accuracy": report.accuracy[1]},
        "front": [row(trial) for trial in found.front],
        "pick": found.summary.pick,
        "look": None if look is None else look.agreement,
        "trials": len(found.summary.trials),
        "images": len(images),
        "seconds": seconds,
    }


def row(trial: Trial) -> dict[str, Any]:
    assert trial.sizes is not None
    return {
        "trial": trial.number,
        "setting": trial.setting.told(),
        **trial.sizes.model_dump(),
        "agreement": trial.agreement,
        "accuracy": trial.accuracy,
    }


def written(rows: dict[str, Any]) -> str:
    """The page of the results, with the picture beside it."""
    images = max(found["images"] for found in rows.values())
    trials = max(found["trials"] for found in rows.values())
    return "\n".join(
        [
            "# Fronts",
            "",
            "`benchmarks/fronts.py`: the networks that `secateur search` finds of which no other has fewer",
            f"parameters and a higher agreement, in {trials} trials without data, with `allocation` uniform",
            f"or global and a budget of {BUDGET:.0%} agreement. In brackets, the second look on surrogates",
            f"that nothing depended on. The accuracy is on {images:,} test images, which choose nothing. A",
            "network without a pick has none within the budget.",
            "",
            "![Agreement and test accuracy against the share of parameters, for each network](fronts.svg)",
            "",
            table(rows),
        ]
    )


def table(rows: dict[str, Any]) -> str:
    """For each network the original, and the front from the largest to the smallest."""
    lines = []
    for name, found in rows.items():
        original = found["original"]
        title = NETWORKS.get(name, name)
        lines.append([title, "original", f"{original['params']:,}", "", "", percent(original["accuracy"])])
        for point in reversed(found["front"]):
            pick = point["trial"] == found["pick"]
            lines.append(
                [
                    "",
                    f"`{point['setting']}`{', the pick' if pick else ''}",
                    f"{point['params']:,}",
                    f"{point['params'] / original['params']:.0%}",
                    percent(point["agreement"]) + (f" ({percent(found['look'])})" if pick else ""),
                    percent(point["accuracy"]),
                ]
            )
    columns = ["network", "setting", "parameters", "of them", "agreement on surrogates", "test accuracy"]
    return markdown(columns, lines)


def percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def draw(rows: dict[str, Any], path: Path) -> None:
    """A panel for each network: agreement and test accuracy against the share of parameters."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "secateur"  # the same file every time
    import matplotlib.pyplot as plt

    shape = {"ncols": len(rows), "figsize": (3.6 * len(rows), 3.2)}
    figure, (panels,) = plt.subplots(**shape, layout="constrained", sharey=True, squeeze=False)
    for axis, (name, found) in zip(panels, rows.items(), strict=True):
        whole = found["original"]["params"]
        sizes = [100 * point["params"] / whole for point in found["front"]]
        for key, title, color, marker in (
            ("agreement", "agreement on surrogates", "#0072B2", "o"),
            ("accuracy", "test accuracy", "#D55E00", "s"),
        ):
            values = [100 * point[key] for point in found["front"]]
            axis.plot(sizes, values, marker=marker, color=color, label=title, markersize=5, linewidth=1.2)
        axis.axhline(
            100 * found["original"]["accuracy"], color="#888888", linestyle=":", label="original accuracy"
        )
        for point, size in zip(found["front"], sizes, strict=True):
            if point["trial"] == found["pick"]:
                axis.axvline(size, color="black", linewidth=0.8, label="the pick")
        axis.set(xlim=(0, 102), title=NETWORKS.get(name, name))
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xlabel("parameters, % of the original")
    panels[0].set_ylabel("%")
    panels[0].legend(loc="lower right", frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
