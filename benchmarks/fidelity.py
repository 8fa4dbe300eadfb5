"""How close pruning without data comes to pruning with it: zoo × ratio × method.

Reported: accuracy and agreement on test images, robust accuracy under PGD-20 at the zoo's ε, seconds, peak
memory of the process, and gap closure = (ours − best one-shot norm) / (oracle − best one-shot norm), where
the oracle is the same `reconstruct` on 2,000 real training images and the norms are Torch-Pruning's one-shot
L1 and L2. Labelled data are for reporting only and never choose anything. Each row runs in a process of its
own; rows that FIDELITY.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.evaluate.attacks.pgd import PGD
from shared import PGD_DEFAULT, PGD_RADIUS, arguments, load_zoo, machine, markdown, test_data

UNITS = ("0.3", "0.5", "0.7")
METHODS: dict[str, dict[str, Any]] = {
    "reconstruct": {},
    "oracle": {"calibration": "oracle"},
    "saliency": {"method": "saliency"},
    "impact": {"method": "impact"},
    "stochastic": {"method": "stochastic"},
    "scale": {"method": "scale"},
    "scaled_merging": {"method": "scaled_merging", "step": 1.0},
    "folding": {"method": "folding", "step": 1.0},
    "ridge": {"method": "ridge", "step": 1.0},
    "reconstruct on noise": {"surrogate": "uniform"},
    "global": {"allocation": "global"},
    "uniform": {},
}
NORMS = {"one-shot L1": 1, "one-shot L2": 2}  # Torch-Pruning
DATA_FREE = ("saliency", "impact", "stochastic", "scale", "scaled_merging", "folding", "ridge")


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", help="names in the zoo (default: all)")
    parser.add_argument("--methods", nargs="*", default=[*METHODS, *NORMS])
    parser.add_argument("--removed", nargs="*", default=[*UNITS, "params=25%", "params=50%", "params=70%"])
    parser.add_argument("--seeds", type=int, default=1, help="seeds of reconstruct; their spread is reported")
    parser.add_argument("--samples", type=int, default=4000, help="test images of the convolutional networks")
    parser.add_argument(
        "--attacked", type=int, default=1000, help="images under attack; 0: none (CIFAR: a fifth)"
    )
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    path = options.output / "fidelity.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in options.networks or zoo.NAMES:
        jobs = [(name, "original", "", 0)]
        for removed in options.removed:
            for method in options.methods:
                if (method in ("global", "uniform") and "=" not in removed) or (
                    method in NORMS and "=" in removed
                ):
                    continue
                seeds = options.seeds if method == "reconstruct" and removed == "0.5" else 1
                jobs += [(name, method, removed, seed) for seed in range(seeds)]
        for job in jobs:
            key = "|".join(map(str, job))
            if key in rows:
                continue
            rows[key] = in_process(job, options.shared, options.samples, options.attacked)
            print(
                key,
                {k: round(v, 3) for k, v in rows[key].items() if v is not None},
                file=sys.stderr,
                flush=True,
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = tables(rows)
    (options.output / "fidelity.md").write_text(report)
    print(report)
    plot(rows, options.output / "fidelity.svg")


def in_process(job: tuple[str, str, str, int], shared: Path, samples: int, attacked: int) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(row, (job, shared, samples, attacked))


def row(job: tuple[str, str, str, int], shared: Path, samples: int, attacked: int) -> dict[str, Any]:
    name, method, removed, seed = job
    zoo = load_zoo(shared)
    model = zoo.load(name)
    images, labels = test_data(zoo, name, shared)
    cifar = name.startswith("cifar")
    if "mlp" not in name:
        images, labels = images[:samples], labels[:samples]
    floor = _peak()
    begin = time.perf_counter()
    if method == "original":
        small: nn.Module = model
    elif method in NORMS:
        small = one_shot(model, images[:2], float(removed), NORMS[method])
    else:
        settings = dict(METHODS[method])
        if settings.get("calibration") == "oracle":
            settings["calibration"] = oracle_inputs(zoo, name, shared)
        small = secateur.prune(model, images[:2], remove=removed, seed=seed, round_to=1, **settings).model
    seconds, memory = time.perf_counter() - begin, _peak() - floor
    whole = secateur.evaluate(small, images, labels, original=zoo.load(name))
    few = attacked // 5 if cifar else attacked
    robust = None
    if few:
        attack = PGD(PGD_RADIUS.get(name, PGD_DEFAULT), steps=20)
        robust = (
            100
            * secateur.evaluate(small, images[:few], labels[:few], attacks=[attack])
            .attacks[0]
            .robust_accuracy
        )
    return {
        "accuracy": 100 * whole.accuracy[1],
        "agreement": None if whole.agreement is None else 100 * whole.agreement,
        "pgd20": robust,
        "seconds": seconds,
        "memory_gib": memory,
        "parameters": whole.cost.parameters,
        "macs": whole.cost.macs,
    }


def oracle_inputs(zoo: Any, name: str, shared: Path) -> Tensor:
    import numpy as np

    with np.load(shared / "data" / f"{zoo.DATA[name]}.npz", allow_pickle=False) as archive:
        images = torch.from_numpy(archive["oracle_images"]).float() / 255
    return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2).contiguous()


def one_shot(model: nn.Module, example: Tensor, ratio: float, norm: int) -> nn.Module:
    """Torch-Pruning's magnitude pruner on all groups, the same ratio for each, in one step."""
    import torch_pruning as tp

    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    importance = tp.importance.MagnitudeImportance(p=norm)
    tp.pruner.MagnitudePruner(model, example, importance, pruning_ratio=ratio, ignored_layers=[last]).step()
    return model


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# --- report -------------------------------------------------------------------------------------------------


def tables(rows: dict[str, dict[str, Any]]) -> str:
    found = {tuple(key.split("|")): value for key, value in rows.items()}
    networks = list(dict.fromkeys(key[0] for key in found))
    parts = ["# Fidelity without data\n"]
    for removed in dict.fromkeys(key[2] for key in found if key[2]):
        methods = [m for m in (*METHODS, *NORMS) if any(k[1] == m and k[2] == removed for k in found)]
        for quantity, title in (
            ("accuracy", "Accuracy %"),
            ("pgd20", "Robust accuracy %, PGD-20"),
            ("agreement", "Agreement %"),
        ):
            lines = []
            for name in networks:
                cells = [_cell(found, name, m, removed, quantity) for m in methods]
                lines.append([name, _cell(found, name, "original", "", quantity), *cells])
            parts.append(
                f"## {title}, {removed} removed\n\n" + markdown(["network", "original", *methods], lines)
            )
    parts.append("## Gap closure\n\n" + markdown(["network", *UNITS], closure_lines(found, networks)))
    spread = []
    for name in networks:
        values = [
            v["accuracy"]
            for k, v in found.items()
            if k[0] == name and k[1] == "reconstruct" and k[2] == "0.5"
        ]
        if len(values) > 1:
            spread.append(
                [
                    name,
                    str(len(values)),
                    f"{min(values):.1f} / {statistics.median(values):.1f} / {max(values):.1f}",
                ]
            )
    if spread:
        parts.append(
            "## Spread over seeds at 50 % of units: lowest / median / highest accuracy %\n\n"
            + markdown(["network", "seeds", "accuracy"], spread)
        )
    costs = [
        [k[0], k[2], f"{v['seconds']:.1f}", f"{v['memory_gib']:.2f}"]
        for k, v in found.items()
        if k[1] == "reconstruct" and k[3] == "0"
    ]
    parts.append(
        "## Time and memory of `reconstruct`\n\n" + markdown(["network", "removed", "s", "GiB"], costs)
    )
    return "\n".join(parts)


def closure_lines(found: dict[tuple[str, ...], dict[str, Any]], networks: Sequence[str]) -> list[list[str]]:
    lines, columns = [], {removed: list[float]() for removed in UNITS}
    for name in networks:
        cells = []
        for removed in UNITS:
            closure = gap_closure(found, name, removed)
            cells.append("" if closure is None else f"{closure:.2f}")
            columns[removed] += [] if closure is None else [closure]
        lines.append([name, *cells])
    lines.append(["median", *(f"{statistics.median(c):.2f}" if c else "" for c in columns.values())])
    return lines


def gap_closure(found: dict[tuple[str, ...], dict[str, Any]], name: str, removed: str) -> float | None:
    def accuracy(method: str) -> float | None:
        values = [v["accuracy"] for k, v in found.items() if k[:3] == (name, method, removed)]
        return statistics.median(values) if values else None

    ours, oracle, norms = accuracy("reconstruct"), accuracy("oracle"), [accuracy(m) for m in NORMS]
    known = [n for n in norms if n is not None]
    if ours is None or oracle is None or not known:
        return None
    return (ours - max(known)) / (oracle - max(known))


def _cell(
    found: dict[tuple[str, ...], dict[str, Any]], name: str, method: str, removed: str, quantity: str
) -> str:
    values = [
        v[quantity] for k, v in found.items() if k[:3] == (name, method, removed) and v[quantity] is not None
    ]
    return f"{statistics.median(values):.1f}" if values else ""


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Accuracy over the share of units removed, one small picture for each network."""
    import matplotlib.pyplot as plt

    found = {tuple(key.split("|")): value for key, value in rows.items()}
    networks = list(dict.fromkeys(key[0] for key in found))
    shown = {
        "oracle": "#000000",
        "reconstruct": "#0072B2",
        "saliency": "#E69F00",
        "folding": "#009E73",
        "one-shot L2": "#D55E00",
    }
    columns = 3
    figure, axes = plt.subplots(
        -(-len(networks) // columns), columns, figsize=(11, 3 * -(-len(networks) // columns)), squeeze=False
    )
    for name, axis in zip(networks, axes.flat, strict=False):
        for method, colour in shown.items():
            points = sorted(
                (float(k[2]), v["accuracy"])
                for k, v in found.items()
                if k[0] == name and k[1] == method and k[3] == "0" and k[2] and "=" not in k[2]
            )
            start = [(0.0, v["accuracy"]) for k, v in found.items() if k[:2] == (name, "original")]
            if points:
                xs, ys = zip(*(start + points), strict=True)
                axis.plot([100 * x for x in xs], ys, color=colour, label=method, marker="o", markersize=3)
        axis.set_title(name, fontsize=9)
        axis.set_ylim(0, 100)
    for axis in list(axes.flat)[len(networks) :]:
        axis.set_axis_off()
    axes[0][0].legend(fontsize=8)
    figure.supxlabel("units removed, %")
    figure.supylabel("accuracy, %")
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
