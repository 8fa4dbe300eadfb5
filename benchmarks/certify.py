"""How tight and how fast certificates are: network × share removed × radius, `reconstruct` without data.

Networks are those of the zoo, and by name vision transformers of `networks` and `networks.transformers`:

    python benchmarks/certify.py --networks digits-vit-gelu mnist-vit-gelu fashion_vit --eps 0.002

Reported for balls round test images: certified drift (the most any output moves), by linear bounds and by
intervals alone; the largest drift that a search finds; tightness = certified / found, median over the balls;
the share of balls on which both networks provably keep the original's class, the share on which each keeps
its own, and beside each what the search left standing; seconds and peak memory. Each row runs in a process of
its own; rows that certify.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import sys
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import networks
import secateur
from networks import transformers
from secateur.formats.arrays import load_arrays
from shared import arguments, load_zoo, machine, markdown, test_data

WEIGHTS = Path(__file__).resolve().parent / "networks" / "weights"
BALLS = {"mlp": 200, "cnn": 4, "cifar": 1, "vit": 2}  # by a part of the network's name


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", help="names (default: all of the zoo)")
    parser.add_argument("--removed", nargs="*", type=float, default=[0.1, 0.3, 0.5])
    parser.add_argument("--eps", nargs="*", type=float, default=[0.01, 0.02])
    parser.add_argument("--balls", type=int, help="test images (default: 200 for dense networks, a few else)")
    parser.add_argument("--methods", nargs="*", default=["linear", "interval"])
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    path = options.output / "certify.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in options.networks or zoo.NAMES:
        balls = options.balls or next(n for part, n in BALLS.items() if part in name)
        for removed in options.removed:
            for eps in options.eps:
                for method in options.methods:
                    key = f"{name}|{removed}|{eps}|{balls}|{method}"
                    if key in rows:
                        continue
                    rows[key] = in_process(
                        (name, removed, eps, balls, method), options.shared, options.output
                    )
                    print(key, rows[key], file=sys.stderr, flush=True)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = table(rows)
    (options.output / "certify.md").write_text(report)
    print(report)


def in_process(job: tuple[str, float, float, int, str], shared: Path, output: Path) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(row, (job, shared, output))


def row(job: tuple[str, float, float, int, str], shared: Path, output: Path) -> dict[str, Any]:
    name, removed, eps, balls, method = job
    model, images, labels, inputs = network(name, shared)
    recipe = output / f"{name}-{removed}.recipe.json"
    if recipe.is_file():
        small = secateur.replay(model, secateur.Recipe.load(recipe), images[:2])
    else:
        result = secateur.prune(model, images[:2], remove=removed, round_to=1, **inputs)
        small = result.model
        output.mkdir(parents=True, exist_ok=True)
        result.recipe.save(recipe)
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


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def table(rows: dict[str, dict[str, Any]]) -> str:
    lines = []
    for key, value in rows.items():
        name, removed, eps, balls, method = key.split("|")
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
            ]
        )
    header = ["network", "removed", "eps", "balls", "method", "certified", "found", "tightness"]
    header += ["agreement %", "original stable %", "pruned stable %", "margin", "above it %", "s", "GiB"]
    note = (
        "Shares: certified / left standing by the search. Margin: of the original, above which both models "
    )
    note += "decide alike, and the share of inputs above it. Seconds include capture and the search.\n\n"
    return "# Certificates\n\n" + note + markdown(header, lines)


if __name__ == "__main__":
    main()
