"""Prune a small Fashion-MNIST network with every method, measure what is left, and draw it. Run by `make
demo`.
"""

from __future__ import annotations

import time
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no window: the picture goes to a file

import matplotlib.pyplot as plt
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

import secateur
from fashion_cnn.model import HERE, FashionCNN, load
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.report import Evaluation
from secateur.formats.arrays import load_arrays
from secateur.formats.pt2.program import save_program
from secateur.methods import METHODS

OUTPUT = Path(__file__).resolve().parent.parent / "out" / "demo"
RATIOS = (0.3, 0.5)
ATTACKED = 200  # of the 2,000 test images
FGSM_RADIUS, PGD_RADIUS = 0.01, 0.02


def main() -> None:
    console, begin = Console(), time.perf_counter()
    console.width = max(console.width, 130)  # a table cut short helps nobody
    OUTPUT.mkdir(parents=True, exist_ok=True)
    model, data = load(), load_arrays(HERE / "test.npz")
    images, labels = data["images"], data["labels"]
    start = measure(model, model, images, labels)
    jobs = [(method, ratio) for method in METHODS for ratio in RATIOS]
    results = {
        (method, ratio): prune_and_measure(model, method, ratio, images, labels)
        for method, ratio in track(
            jobs, "pruning and measuring", console=Console(stderr=True), transient=True
        )
    }
    console.print(table(start, results))
    picture = OUTPUT / "fashion_cnn.png"
    draw(start, results, picture)
    console.print(f"Smaller models (.pt2) and their recipes: {OUTPUT}", soft_wrap=True)
    console.print(f"Accuracy and robustness against the pruning ratio: {picture}", soft_wrap=True)
    console.print(f"{time.perf_counter() - begin:.0f} s in all")


def prune_and_measure(
    model: FashionCNN, method: str, ratio: float, images: Tensor, labels: Tensor
) -> tuple[secateur.Result, Evaluation, Evaluation]:
    result = secateur.prune(model, images[:1], remove=ratio, method=method, seed=0)
    path = OUTPUT / f"fashion_cnn-{method}-{ratio:.0%}.pt2".replace("%", "")
    save_program(path, result.model, images[:1])
    result.recipe.save(path.with_suffix(".recipe.json"))
    return (result, *measure(result.model, model, images, labels))


def measure(
    model: Any, original: FashionCNN, images: Tensor, labels: Tensor
) -> tuple[Evaluation, Evaluation]:
    """On all images without attack, and on the first of them under attack. For the report only."""
    whole = secateur.evaluate(model, images, labels, original=original)
    attacks = [FGSM(FGSM_RADIUS), PGD(PGD_RADIUS, steps=20)]
    few = images[:ATTACKED], labels[:ATTACKED]
    return whole, secateur.evaluate(model, *few, attacks=attacks, latency=True, batch_size=50)


def table(start: tuple[Evaluation, Evaluation], results: dict[Any, Any]) -> Table:
    made = Table(
        "method", "removed", "units", "parameters", "MACs", "bytes", "ms", "accuracy", "agrees", "FGSM",
        "PGD", "s",
        title=f"Fashion-MNIST CNN; robust instances per 1,000 under FGSM ε={FGSM_RADIUS} and PGD-20 "
        f"ε={PGD_RADIUS}",
    )  # fmt: skip
    units = next(iter(results.values()))[0].before.units
    made.add_row("original", "", str(units), *cells(*start), "")
    for ratio in RATIOS:
        made.add_section()
        for method in METHODS:
            result, whole, part = results[method, ratio]
            left = str(units - result.history[-1].units_removed)
            made.add_row(
                method, f"{ratio:.0%}", left, *cells(whole, part), f"{result.history[-1].seconds:.2f}"
            )
    return made


def cells(whole: Evaluation, part: Evaluation) -> list[str]:
    cost = whole.cost
    robust = [f"{attack.robust_instances_per_1000:.0f}" for attack in part.attacks]
    sizes = [f"{cost.parameters:,}", f"{cost.macs:,}", f"{cost.bytes:,}", f"{part.cost.latency_ms:.1f}"]
    return [*sizes, f"{whole.accuracy[1]:.1%}", f"{whole.agreement:.1%}", *robust]


def draw(start: tuple[Evaluation, Evaluation], results: dict[Any, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    x = [0, *(100 * ratio for ratio in RATIOS)]
    for method, marker in zip(METHODS, cycle("os^Dv*"), strict=False):
        style = {"marker": marker, "alpha": 0.7, "label": method}
        runs = [start, *((results[method, ratio][1:]) for ratio in RATIOS)]
        axes[0].plot(x, [100 * whole.accuracy[1] for whole, _ in runs], **style)
        axes[1].plot(x, [part.attacks[0].robust_instances_per_1000 for _, part in runs], **style)
    axes[0].set(title="accuracy", xlabel="units removed (%)", ylabel="top-1 (%)")
    axes[1].set(
        title=f"robust instances, FGSM ε={FGSM_RADIUS}",
        xlabel="units removed (%)",
        ylabel=f"per 1,000 (of {ATTACKED})",
    )
    for axis, top in zip(axes, (100, 1000), strict=True):
        axis.grid(alpha=0.3)
        axis.set_ylim(0, top)
    axes[0].legend(loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
