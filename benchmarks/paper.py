"""The papers' protocol (arXiv 2204.00783, 2405.00074) on the zoo: accuracy and robustness against the pruning
ratio.

Every hidden group loses the same share of its units in steps of 6.25 %: up to 50 % without recursive merging,
up to 80 % with it (r). Reported: top-1 (CIFAR: top-3 too), robust instances per 1,000 under FGSM at ε = 0.01
and 0.05, robust accuracy under PGD-10 at the zoo's ε, parameters, and seconds of the pruning itself.
`stochastic` runs with several seeds: lowest / median / highest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from torch import nn

import secateur
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.report import Evaluation
from shared import PGD_DEFAULT, PGD_RADIUS, arguments, load_zoo, markdown, test_data, write

METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "saliency": ("saliency", {}),
    "impact": ("impact", {}),
    "stochastic": ("stochastic", {}),
    "scale L1": ("scale", {"norm": 1}),
    "scale L2": ("scale", {"norm": 2}),
}
HEADER = (
    "network",
    "method",
    "removed",
    "top-1 %",
    "top-3 %",
    "FGSM 0.01",
    "FGSM 0.05",
    "PGD-10 %",
    "parameters",
    "s",
)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", help="names in the zoo (default: all)")
    parser.add_argument(
        "--removed", nargs="*", default=["0.25", "0.5", "0.5r", "0.8r"], help="shares, r: recursive"
    )
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the stochastic method")
    parser.add_argument("--cifar-samples", type=int, default=2000, help="test images for the CIFAR networks")
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    records: list[dict[str, Any]] = []
    for name in options.networks or zoo.NAMES:
        images, labels = test_data(zoo, name, options.shared)
        if name.startswith("cifar"):
            images, labels = images[: options.cifar_samples], labels[: options.cifar_samples]
        model = zoo.load(name)
        measure = measurer(name, images, labels)
        records.append(
            {
                "network": name,
                "method": "original",
                "removed": "",
                "runs": [measure(model) | {"seconds": 0.0}],
            }
        )
        for share in options.removed:
            for label, (method, parameters) in METHODS.items():
                seeds = range(options.seeds) if method == "stochastic" else range(1)
                runs = [pruned(model, images[:2], share, method, parameters, seed, measure) for seed in seeds]
                records.append({"network": name, "method": label, "removed": share, "runs": runs})
                print(" | ".join(row(records[-1])), flush=True)
    write(options.output, "paper", markdown(HEADER, map(row, records)), records)


def pruned(
    model: nn.Module,
    example: Any,
    share: str,
    method: str,
    options: dict[str, float],
    seed: int,
    measure: Callable[[nn.Module], dict[str, Any]],
) -> dict[str, Any]:
    begin = time.perf_counter()
    result = secateur.prune(
        model,
        example,
        remove=share.removesuffix("r"),
        method=method,
        options=options,
        recursive=share.endswith("r"),
        round_to=1,
        seed=seed,
    )
    seconds = time.perf_counter() - begin
    return {"seed": seed, "seconds": seconds, **measure(result.model)}


def measurer(name: str, images: Any, labels: Any) -> Callable[[nn.Module], dict[str, Any]]:
    """Accuracy on all images, attacks on the first 1,000 (CIFAR: 500)."""
    attacked = 500 if name.startswith("cifar") else 1000
    attacks = (FGSM(0.01), FGSM(0.05), PGD(PGD_RADIUS.get(name, PGD_DEFAULT), steps=10))
    top_k = (1, 3) if name.startswith("cifar") else (1,)

    def measure(model: nn.Module) -> dict[str, Any]:
        whole = secateur.evaluate(model, images, labels, top_k=top_k)
        part = secateur.evaluate(model, images[:attacked], labels[:attacked], attacks=attacks)
        return summary(whole, part)

    return measure


def summary(whole: Evaluation, part: Evaluation) -> dict[str, Any]:
    fgsm_small, fgsm_large, pgd = part.attacks
    return {
        "top1": 100 * whole.accuracy[1],
        "top3": 100 * whole.accuracy[3] if 3 in whole.accuracy else None,
        "fgsm_0.01_per_1000": fgsm_small.robust_instances_per_1000,
        "fgsm_0.05_per_1000": fgsm_large.robust_instances_per_1000,
        "pgd10": 100 * pgd.robust_accuracy,
        "parameters": whole.cost.parameters,
    }


def row(record: dict[str, Any]) -> list[str]:
    runs = record["runs"]

    def spread(key: str, digits: int = 1) -> str:
        values = [run[key] for run in runs if run[key] is not None]
        numbers = [min(values), statistics.median(values), max(values)] if len(values) > 1 else values
        return " / ".join(f"{value:.{digits}f}" for value in numbers)

    return [
        record["network"],
        record["method"],
        record["removed"],
        spread("top1"),
        spread("top3"),
        spread("fgsm_0.01_per_1000", 0),
        spread("fgsm_0.05_per_1000", 0),
        spread("pgd10"),
        f"{runs[0]['parameters']:,}",
        f"{statistics.median(run['seconds'] for run in runs):.2f}",
    ]


if __name__ == "__main__":
    main()
