"""How tight and how fast certificates are: network × share removed × radius, `reconstruct` without data.

Networks are those of the zoo, and by name vision transformers of `networks` and `networks.transformers`:

    python benchmarks/certify.py --networks digits-vit-gelu mnist-vit-gelu fashion_vit --eps 0.002

Reported for balls round test images: certified drift (the most any output moves), by linear bounds and by
intervals alone; the largest drift that a search finds; tightness = certified / found, median over the balls;
the share of balls on which both networks provably keep the original's class, the share on which each keeps
its own, and beside each what the search left standing; seconds and peak memory. With `--lirpa`, CROWN and
α-CROWN of auto_LiRPA bound g − f on the same balls (see lirpa.py); of these there is the drift alone. Each
row runs in a process of its own; rows that certify.json already holds are kept, so that the run can be made
in parts.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

import networks
import secateur
from networks import transformers
from secateur.formats.arrays import load_arrays
from shared import arguments, load_zoo, machine, markdown, test_data

WEIGHTS = Path(__file__).resolve().parent / "networks" / "weights"
Job = tuple[str, float, float, int, str]
LIRPA = {"CROWN": "CROWN", "α-CROWN": "CROWN-Optimized"}  # its name of each method
SET = {nn.Conv2d: ("stride", "padding"), nn.MaxPool2d: ("kernel_size", "stride")}  # what a layer is told
BALLS = {"mlp": 200, "cnn": 4, "cifar": 1, "vit": 2}  # by a part of the network's name


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", help="names (default: all of the zoo)")
    parser.add_argument("--removed", nargs="*", type=float, default=[0.1, 0.3, 0.5])
    parser.add_argument("--eps", nargs="*", type=float, default=[0.01, 0.02])
    parser.add_argument("--balls", type=int, help="test images (default: 200 for dense networks, a few else)")
    parser.add_argument("--methods", nargs="*", default=["linear", "interval"])
    parser.add_argument(
        "--lirpa", type=Path, help="a Python that has auto_LiRPA, to bound the same balls with it"
    )
    options = parser.parse_args()
    methods = [*options.methods, *(LIRPA if options.lirpa else ())]
    zoo = load_zoo(options.shared)
    path = options.output / "certify.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in options.networks or zoo.NAMES:
        balls = options.balls or next(n for part, n in BALLS.items() if part in name)
        for removed in options.removed:
            for eps in options.eps:
                for method in methods:
                    key = f"{name}|{removed}|{eps}|{balls}|{method}"
                    if key in rows:
                        continue
                    job = (name, removed, eps, balls, method)
                    rows[key] = in_process(job, options.shared, options.output, options.lirpa)
                    print(key, rows[key], file=sys.stderr, flush=True)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = table(rows)
    (options.output / "certify.md").write_text(report)
    print(report)


def in_process(job: Job, shared: Path, output: Path, lirpa: Path | None) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(row, (job, shared, output, lirpa))


def row(job: Job, shared: Path, output: Path, lirpa: Path | None) -> dict[str, Any]:
    name, removed, eps, balls, method = job
    model, images, labels, inputs = network(name, shared)
    recipe = output / f"{name}-{removed}.recipe.json"
    if recipe.is_file():
        small = secateur.replay(model, secateur.Recipe.load(recipe), images[:2])
    else:
        result = secateur.prune(model, images[:2], remove=removed, round_to=1, attention="heads", **inputs)
        small = result.model
        output.mkdir(parents=True, exist_ok=True)
        result.recipe.save(recipe)
    if method in LIRPA:
        assert lirpa is not None
        return by_lirpa(model, small, images[:balls], eps, LIRPA[method], lirpa)
    floor = _peak()
    certificate = secateur.certify(
        model,
        small,
        images[:2],
        inputs=images[:balls],
        eps=eps,
        labels=labels[:balls],
        method=method,
        **inputs,
    )
    assert certificate.found is not None
    pairs = list(zip(certificate.drift, certificate.found, strict=True))
    if any(certified < found for certified, found in pairs):
        raise AssertionError(f"{job}: a point that was found violates the certificate")
    shares = {
        part: getattr(certificate, part).model_dump()
        for part in ("agreement", "stable_original", "stable_pruned")
    }
    margin = certificate.agreement_margin
    assert margin is not None
    return {
        "margin": statistics.median(margin.proved),
        "above": margin.above,
        "certified": statistics.median(certificate.drift),
        "found": statistics.median(certificate.found),
        "tightness": statistics.median(c / f for c, f in pairs),
        **shares,
        "arithmetic": certificate.arithmetic,
        "rounding": None if (e := certificate.inference_rounding) is None else statistics.median(e),
        "seconds": certificate.seconds,
        "memory_gib": _peak() - floor,
    }


def network(name: str, shared: Path) -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    """A network, test images and labels, and what `prune` and `certify` are told of its inputs."""
    zoo = load_zoo(shared)
    if name in zoo.NAMES:
        return zoo.load(name), *test_data(zoo, name, shared), {}
    if name in transformers.NETWORKS:
        data = load_arrays(shared / "data" / f"{transformers.NETWORKS[name].data}.npz")
        return transformers.load(name), data["images"], data["labels"], {}
    found = networks.load(name, WEIGHTS, shared)
    return found.model, found.test.images, found.test.labels, found.options


def by_lirpa(
    model: nn.Module, small: nn.Module, images: Tensor, eps: float, method: str, python: Path
) -> dict[str, Any]:
    """Both networks, of layers in a sequence, go to auto_LiRPA in a process of its own Python."""
    arrays, layers = {}, []
    for role, network in (("f", model), ("g", small)):
        layers = []
        for number, layer in enumerate(network.children()):
            layers.append((type(layer).__name__, {k: getattr(layer, k) for k in SET.get(type(layer), ())}))
            for key, value in layer.state_dict().items():
                arrays[f"{role}.{number}.{key}"] = value.numpy()
    about = json.dumps({"layers": layers, "eps": eps})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "networks.npz"
        np.savez(path, about=np.array(about), inputs=images.numpy(), **arrays)
        command = [python, Path(__file__).with_name("lirpa.py"), path, method]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"auto_LiRPA: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {"certified": statistics.median(found["drift"]), "seconds": found["seconds"]}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for key, value in rows.items():
        name, removed, eps, balls, method = key.split("|")
        if method in LIRPA:
            drift, seconds = f"{value['certified']:.3g}", f"{value['seconds']:.1f}"
            lines.append([name, removed, eps, balls, method, drift, *[""] * 7, seconds, *[""] * 3])
            continue
        shares = [value[part] for part in ("agreement", "stable_original", "stable_pruned")]
        lines.append(
            [
                name,
                removed,
                eps,
                balls,
                method,
                f"{value['certified']:.3g}",
                f"{value['found']:.3g}",
                f"{value['tightness']:.2f}",
                *(f"{100 * share['certified']:.1f} / {100 * share['empirical']:.1f}" for share in shares),
                f"{value['margin']:.3g}" if "margin" in value else "",
                f"{100 * value['above']:.1f}" if "above" in value else "",
                f"{value['seconds']:.1f}",
                f"{value['memory_gib']:.2f}",
                value.get("arithmetic", ""),
                "" if value.get("rounding") is None else f"{value['rounding']:.2g}",
            ]
        )
    header = ["network", "removed", "eps", "balls", "method", "certified", "found", "tightness"]
    header += [
        "agreement %",
        "original stable %",
        "pruned stable %",
        "margin",
        "above it %",
        "s",
        "GiB",
        "arithmetic",
        "rounding",
    ]
    note = (
        "Shares: certified / left standing by the search. Margin: of the original, above which both models "
    )
    note += "decide alike, and the share of inputs above it. Seconds include capture and the search. "
    note += "Rounding of both models is inside of claims about float32.\n\n"
    return "# Certificates\n\n" + note + markdown(header, lines)


if __name__ == "__main__":
    main()
