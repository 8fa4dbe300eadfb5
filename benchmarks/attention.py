"""What leaves from attention: whole heads, widths of heads, or both, on vision transformers.

    python benchmarks/attention.py --output docs/results

The networks are those of `benchmarks/networks` of the family `vit`, and `fashion_vit` and `cifar_vit` of
`benchmarks/networks/transformers`. Hidden units of the feed-forward layers leave in the same share as heads
or widths; `queries and keys` and `values` are these widths alone. Each is pruned without data and with 128
real inputs. What is reported is the accuracy on all test images, in %, and that under PGD of 20 steps on the
first 500. Rows that attention.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import networks
import secateur
from networks import training, transformers
from networks.data import Samples, published
from secateur.errors import SecateurWarning
from secateur.graph.widths import crossed_by_widths
from shared import arguments, machine, markdown

OWN = 128
ATTACKED = 500  # images
RADII = {"cifar10": 0.5 / 255}  # of PGD in a network's images; 0.01 of those of other data
WEIGHTS = Path(__file__).resolve().parent / "networks" / "weights"
# what leaves: `attention`, the end of the names of the groups that do, and the share
RUNS: dict[str, tuple[str, str, float]] = {
    **{f"{what}, 30%": (what, "", 0.3) for what in ("heads", "widths", "both")},
    **{f"{what}, 50%": (what, "", 0.5) for what in ("heads", "widths", "both")},
    "widths, 70%": ("widths", "", 0.7),
    "queries and keys, 50%": ("widths", "/qk", 0.5),
    "values, 50%": ("widths", "/v", 0.5),
}

HEAD = """# Attention

`benchmarks/attention.py`: vision transformers with heads, or widths of heads, and the hidden units of the
feed-forward layers removed in one shot, without fine-tuning. Points of test accuracy lost; accuracy under PGD
of 20 steps, in % of 500 images. *Chosen on*: rules may have been chosen on the network; the others only
serve to report.
"""


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained network and its samples; images are as before normalisation."""

    model: nn.Module
    data: str
    half: str
    options: dict[str, Any]  # what `prune` and `evaluate` are told of the images
    test: Samples
    own: Tensor

    def accuracy(self, model: nn.Module) -> float:
        outputs = training.outputs_of(model, self.taken(self.test.images))
        return training.measure("classes", outputs, self.test)["accuracy"]

    def taken(self, images: Tensor) -> Tensor:
        """Images as the network takes them."""
        return training.taken(images, self.options.get("mean", ()), self.options.get("std", ()))

    def under_attack(self, model: nn.Module) -> float:
        attack = secateur.PGD(RADII.get(self.data, 0.01), steps=20)
        images, labels = self.test.images[:ATTACKED], self.test.labels[:ATTACKED]
        report = secateur.evaluate(model, images, labels, attacks=[attack], **self.options)
        return report.attacks[0].robust_accuracy

    @cached_property
    def before(self) -> dict[str, float]:
        return {"before": self.accuracy(self.model), "robust_before": self.under_attack(self.model)}


@cache
def subject(name: str, shared: Path) -> Subject:
    if name in transformers.NETWORKS:
        data = transformers.NETWORKS[name].data
        test, own = published(data, shared / "data")
        options: dict[str, Any] = {"input_bounds": (0.0, 1.0)}
        return Subject(transformers.load(name), data, "report", options, test, own.images)
    found = networks.load(name, WEIGHTS, shared)
    return Subject(found.model, found.recipe.data, found.half, found.options, found.test, found.oracle.images)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--networks", nargs="*", help="names of networks (default: all transformers)")
    parser.add_argument("--runs", nargs="*", help="rows of the table, such as 'widths, 50%%' (default: all)")
    parser.add_argument("--samples", type=int, default=512, help="of surrogates")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "attention.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    pictures = ("mnist", "fashion_mnist", "cifar10")  # whose test images are shared
    known = [r.name for r in networks.RECIPES if r.family == "vit" and r.data in pictures]
    names = ["fashion_vit", "cifar_vit", *(n for n in networks.names(folder=WEIGHTS) if n in known)]
    warnings.simplefilter("ignore", SecateurWarning)
    for name in options.networks or names:
        for what in options.runs or RUNS:
            for own in (0, OWN):
                key = f"{name}|{what}|{own}"
                if key not in rows:
                    rows[key] = row(name, what, own, options.shared, options.samples)
                    print(key, rows[key], flush=True)
                    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = HEAD + "".join(tables(rows))
    (options.output / "attention.md").write_text(report)
    print(report)


def row(name: str, what: str, own: int, shared: Path, samples: int) -> dict[str, Any]:
    network = subject(name, shared)
    example = network.taken(torch.full_like(network.own[:1], 0.5))
    attention, end, share = RUNS[what]
    settings: dict[str, Any] = {**network.options, "samples": samples, "round_to": 1}
    if own:
        settings |= {"calibration": network.own[:own], "surrogate": "none"}
    if end:
        found = secateur.inspect(network.model, example).prunable
        left_out = {group.name for group in found if not group.name.endswith(end)}
        settings["ignore"] = sorted(left_out - crossed_by_widths(found))
    begin = time.perf_counter()
    result = secateur.prune(network.model, example, remove=share, attention=attention, **settings)
    seconds = time.perf_counter() - begin
    after, before = result.history[-1], result.before
    return {
        "half": network.half,
        **network.before,
        "after": network.accuracy(result.model),
        "robust": network.under_attack(result.model),
        "parameters": 1 - after.parameters / before.parameters,
        "macs": 1 - after.macs / before.macs,
        "seconds": seconds,
    }


def tables(rows: dict[str, dict[str, Any]]) -> Iterable[str]:
    for name in dict.fromkeys(key.split("|")[0] for key in rows):
        own = {key: found for key, found in rows.items() if key.startswith(f"{name}|")}
        first = next(iter(own.values()))
        half = "chosen on" if first["half"] == "choose" else "reported"
        yield f"\n## {name}\n\n{half}; before: accuracy {100 * first['before']:.1f}, under PGD "
        yield f"{100 * first['robust_before']:.1f}\n\n"
        lines = []
        for what in RUNS:
            pair = [own.get(f"{name}|{what}|{count}") for count in (0, OWN)]
            if known := [found for found in pair if found]:
                lost = [f"{100 * (f['before'] - f['after']):.1f}" if f else "" for f in pair]
                robust = [f"{100 * f['robust']:.1f}" if f else "" for f in pair]
                gone = (f"{100 * known[0][of]:.0f} %" for of in ("parameters", "macs"))
                lines.append((what, *gone, *lost, *robust))
        header = ("leaves", "parameters", "MACs", "lost, no data", "128 real inputs", "under PGD, no data")
        yield markdown((*header, "128 real inputs"), lines) + "\n"


if __name__ == "__main__":
    main()
