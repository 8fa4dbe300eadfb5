"""How the time of pruning grows with width and depth, and the memory of ranking a wide layer.

Each case runs in a process of its own, so that peak memory is its own. Growth is reported as the exponent of
a power law fitted to the times (least squares on logarithms).
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

import secateur
from secateur.methods.pairs import least_partners
from shared import arguments, load_zoo, markdown, write
from size_networks import ViT

WIDTHS = (256, 512, 1024, 2048, 4096)
DEPTHS = (2, 4, 8, 16, 32)
VERY_DEEP = (50, 100, 200)  # layers of 16 units: the time that goes into the graph alone
BLOCKS = (12, 36, 108, 216)  # of a narrow transformer: about 30 nodes of the graph each
DEEP_JOBS: dict[str, dict[str, Any]] = {
    "saliency": {"method": "saliency", "remove": 0.5},
    "reconstruct": {"method": "reconstruct", "remove": 0.5},
    "reconstruct, global macs": {"allocation": "global", "remove": "macs=40%"},
}


def mlp(width: int, depth: int) -> nn.Module:
    torch.manual_seed(0)
    sizes = [width] * (depth + 1)
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10)).eval()


def deep_mlp(depth: int) -> nn.Module:
    """Narrow, with orthogonal weights, so that neither values nor gradients vanish."""
    model = mlp(16, depth)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, 1.3)
    return model


def rank(width: int) -> dict[str, float]:
    """Every unit of a layer of `width` units and inputs with its best partner, in order of saliency."""
    torch.manual_seed(0)
    features, fan = torch.randn(width, width + 1, dtype=torch.float64), torch.rand(width, dtype=torch.float64)
    everyone = torch.arange(width)
    before = peak_mib()
    begin = time.perf_counter()
    values, _ = least_partners(features, fan, everyone)
    torch.sort(values)
    return {"seconds": time.perf_counter() - begin, "extra MiB": peak_mib() - before}


def prune_mlp(width: int, depth: int, method: str) -> dict[str, float]:
    return timed(
        lambda: secateur.prune(mlp(width, depth), torch.rand(2, width), remove=0.5, method=method, round_to=1)
    )


def prune_deep(depth: int, job: str) -> dict[str, float]:
    request = {"samples": 64, "round_to": 1, "normalize": "none"} | DEEP_JOBS[job]
    return timed(lambda: secateur.prune(deep_mlp(depth), torch.rand(2, 16), **request))


def prune_blocks(blocks: int) -> dict[str, float]:
    """Capture, coupling, plan and check of a graph of many nodes, and writing what is left."""
    torch.manual_seed(0)
    model, example = ViT(32, patch=8, dim=16, depth=blocks, heads=2).eval(), torch.rand(2, 3, 32, 32)
    nodes = len(torch.export.export(model, (example,)).graph.nodes)
    begin = time.perf_counter()
    result = secateur.prune(model, example, remove=0.3, method="saliency", round_to=1, normalize="none")
    pruned = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        secateur.save_model(Path(folder) / "small.pt2", result.model, example)
    written = time.perf_counter()
    return {
        "nodes": nodes,
        "prune seconds": pruned - begin,
        "seconds": written - begin,
        "peak MiB": peak_mib(),
    }


def prune_zoo(name: str, method: str, shared: str) -> dict[str, float]:
    zoo = load_zoo(Path(shared))
    shape = {"mnist": (1, 28, 28), "fashion_mnist": (1, 28, 28), "cifar10": (3, 32, 32)}[zoo.DATA[name]]
    return timed(
        lambda: secateur.prune(zoo.load(name), torch.rand(2, *shape), remove=0.5, method=method, round_to=1)
    )


def timed(job: Callable[[], secateur.Result]) -> dict[str, float]:
    """Cold (with torch.export's first use) and warm: whole calls of `prune`, capture and checks included."""
    begin = time.perf_counter()
    job()
    cold = time.perf_counter() - begin
    begin = time.perf_counter()
    job()
    return {"cold seconds": cold, "seconds": time.perf_counter() - begin, "peak MiB": peak_mib()}


JOBS: dict[str, Callable[..., dict[str, float]]] = {
    "rank": rank,
    "prune_mlp": prune_mlp,
    "prune_deep": prune_deep,
    "prune_blocks": prune_blocks,
    "prune_zoo": prune_zoo,
}


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(job: str, *values: Any) -> dict[str, float]:
    """Run a job in a fresh process."""
    command = [sys.executable, "-W", "ignore", __file__, "--job", json.dumps([job, *values])]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """p of seconds ≈ c·size^p."""
    x, y = [math.log(s) for s in sizes], [math.log(t) for t in seconds]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--job", help="one job as JSON, for the process that measures it")
    options = parser.parse_args()
    if options.job:
        name, *values = json.loads(options.job)
        print(json.dumps(JOBS[name](*values)))
        return
    records: list[dict[str, Any]] = []

    def case(label: str, size: int | str, job: str, *values: Any) -> float:
        records.append({"case": label, "size": size, **apart(job, *values)})
        print(records[-1], flush=True)
        return float(records[-1]["seconds"])

    series = {"rank a layer, width": (WIDTHS, [case("rank a layer, width", w, "rank", w) for w in WIDTHS])}
    for method in ("saliency", "impact"):
        label = f"{method}, 3 layers, width"
        series[label] = WIDTHS, [case(label, w, "prune_mlp", w, 3, method) for w in WIDTHS]
        label = f"{method}, width 256, depth"
        series[label] = DEPTHS, [case(label, d, "prune_mlp", 256, d, method) for d in DEPTHS]
    for job in DEEP_JOBS:
        label = f"{job}, width 16, depth"
        series[label] = VERY_DEEP, [case(label, d, "prune_deep", d, job) for d in VERY_DEEP]
    label = "transformer, prune and write, blocks"
    series[label] = BLOCKS, [case(label, blocks, "prune_blocks", blocks) for blocks in BLOCKS]
    for name in ("paoding_mlp", "cifar_vgg11", "cifar_resnet20"):
        for method in ("impact", "stochastic"):
            case(f"{method} to 50 %", name, "prune_zoo", name, method, str(options.shared))
    rows = [[str(v) if isinstance(v, int | str) else f"{v:.2f}" for v in (
        r["case"], r["size"], r["seconds"], r.get("cold seconds", ""), r.get("extra MiB", r.get("peak MiB",
        "")))]
        for r in records]  # fmt: skip
    table = markdown(("case", "size", "seconds", "first call", "MiB"), rows)
    laws = {label: exponent(sizes, seconds) for label, (sizes, seconds) in series.items()}
    table += "\n" + "".join(f"- {label}: time grows as size^{p:.2f}\n" for label, p in laws.items())
    write(options.output, "scaling", table, {"cases": records, "exponents": laws})


if __name__ == "__main__":
    main()
