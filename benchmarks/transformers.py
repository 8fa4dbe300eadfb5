"""Transformers pruned without data, beside the same on real samples and other methods: one table.

    cd benchmarks
    python transformers.py --packages DIR [--output DIR] [--networks NAME …] [--table TABLE]

DIR holds the packages that `networks/packages.py` and `networks/transformers/texts.py` name. Of text,
held-out sequences measure, and 128 training sequences are the real samples of the rows that say so; of
pictures, all test images and 128 training images. Rows that the table's .json already holds are kept, so that
the run can be made in parts. The table `heads_or_widths` compares what leaves from attention at the same
number of parameters.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from networks import transformers
from networks.data import published
from shared import arguments, machine, markdown

REAL = 128  # sequences that are given as calibration
SAMPLES = 128  # of generated inputs, at most
PICTURES = 512  # of generated pictures
HELD_OUT = 256  # sequences that measure


@dataclass(frozen=True)
class Run:
    """One way to prune: what stands in the table, and the arguments of `prune`; `real`: on real samples."""

    label: str
    settings: dict[str, Any] = field(default_factory=dict)
    real: bool = False


RUNS = (
    Run("reconstruct, text of its own", {"surrogate": "auto"}),
    Run(f"reconstruct, {REAL} real sequences", real=True),
    Run("the same, global allocation, text of its own", {"surrogate": "auto", "allocation": "global"}),
    Run(f"the same, global allocation, {REAL} real sequences", {"allocation": "global"}, real=True),
    Run("reconstruct, uniform tokens", {"surrogate": "uniform"}),
    Run("reconstruct, tokens by rank", {"surrogate": "ranks"}),
    Run("ridge, text of its own", {"method": "ridge", "surrogate": "auto"}),
    Run("folding", {"method": "folding"}),
    Run("saliency", {"method": "saliency"}),
)

ATTENTION = tuple(
    run
    for what in ("heads", "widths", "both")
    for run in (
        Run(f"{what}, no data", {"attention": what}),
        Run(f"{what}, {REAL} real samples", {"attention": what, "surrogate": "none"}, real=True),
    )
)


Measure = Callable[[Run, float], dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """Its rows, and the shares of the parameters that go."""

    runs: tuple[Run, ...]
    shares: tuple[float, ...]
    networks: tuple[str, ...]
    head: str


TABLES = {
    "transformers": Table(
        RUNS,
        (0.2, 0.3),
        ("text_llama",),
        """# Transformers

`benchmarks/transformers.py`. The networks are those of `benchmarks/networks/transformers`; nothing was chosen
on `text_llama`. Perplexity is that of held-out text, *ratio* is to the original's, with an interval of 95 %
from the same sequences. Of attention, widths of heads leave, the [default](../decisions/0014-attention.md).
""",
    ),
    "heads_or_widths": Table(
        ATTENTION,
        (0.3, 0.5),
        ("text_gpt", "text_llama", "text_bert", "fashion_vit", "cifar_vit"),
        """# What leaves from attention

`benchmarks/transformers.py --table heads_or_widths`: heads, widths of heads, or both, and hidden units, at
the same number of parameters. The default was chosen on `text_gpt` and `text_llama`.
""",
    ),
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--packages", type=Path, required=True, help="folder with the packages")
    parser.add_argument("--table", choices=TABLES, default="transformers")
    parser.add_argument("--networks", nargs="*", help="names (default: those of the table)")
    options = parser.parse_args()
    table = TABLES[options.table]
    path = options.output / f"{options.table}.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    names = options.networks or table.networks
    measures = {name: measure_of(name, options.packages, options.shared) for name in names}
    for share in table.shares:
        for name, run in product(names, table.runs):
            key = f"{name}|{share:g}|{run.label}"
            if key not in rows:
                rows[key] = {"network": name, "share": share, "run": run.label, **measures[name](run, share)}
                print(key, rows[key], file=sys.stderr, flush=True)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = table.head + "".join(section(rows, name, table.shares) for name in names)
    path.with_suffix(".md").write_text(report)
    print(report)


def measure_of(name: str, packages: Path, shared: Path) -> Measure:
    """A function that prunes a network and measures the result."""
    is_text = transformers.NETWORKS[name].task != "classes"
    return of_text(name, packages) if is_text else of_pictures(name, shared)


def of_text(name: str, packages: Path) -> Measure:
    """A function that prunes a network of text and measures the result."""
    model = transformers.load(name)
    train, held_out = transformers.sequences(name, packages)
    chosen = torch.linspace(0, len(train) - 1, REAL).long()
    test = held_out[torch.linspace(0, len(held_out) - 1, HELD_OUT).long()]
    tokenizer = transformers.FOLDER / f"{transformers.NETWORKS[name].data}.json"

    def measure(run: Run, share: float) -> dict[str, Any]:
        began = time.process_time()
        result = secateur.prune(
            model,
            torch.zeros_like(test[:1]),
            remove=f"params={share:.0%}",
            calibration=train[chosen] if run.real else None,
            tokenizer=tokenizer,
            samples=SAMPLES,
            **run.settings,
        )
        seconds = time.process_time() - began
        found = MEASURES[transformers.NETWORKS[name].task](result.model, model, test)
        return {
            **found,
            "removed": result.recipe.achieved,
            "seconds": seconds,
            "drawn": result.recipe.used.drawn,
        }

    return measure


def of_pictures(name: str, shared: Path) -> Measure:
    """A function that prunes a network of pictures and measures its accuracy on all test images."""
    model = transformers.load(name)
    test, own = published(transformers.NETWORKS[name].data, shared / "data")

    def measure(run: Run, share: float) -> dict[str, Any]:
        began = time.process_time()
        result = secateur.prune(
            model,
            test.images[:1],
            remove=f"params={share:.0%}",
            calibration=own.images[:REAL] if run.real else None,
            samples=PICTURES,
            **run.settings,
        )
        seconds = time.process_time() - began
        report = secateur.evaluate(result.model, test.images, test.labels, original=model)
        return {
            "accuracy": report.accuracy[1],
            "original_accuracy": report.original_accuracy[1],
            "removed": result.recipe.achieved,
            "seconds": seconds,
            "drawn": result.recipe.used.drawn,
        }

    return measure


def next_token(model: nn.Module, original: nn.Module, ids: Tensor) -> dict[str, Any]:
    found = secateur.evaluate(model, ids, original=original).language
    assert found is not None
    return json.loads(found.model_dump_json(exclude={"original_accuracy"}))


def masked(model: nn.Module, original: nn.Module, ids: Tensor) -> dict[str, Any]:
    """Perplexity of masked tokens, the same ones for both models."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.rand(ids.shape, generator=generator) < 0.15
    losses = []
    with torch.no_grad():
        for network in (original, model):
            logits = network(ids.masked_fill(hidden, 0))[hidden]
            losses.append(float(nn.functional.cross_entropy(logits, ids[hidden])))
    ratio = {"value": math.exp(losses[1] - losses[0]), "low": None, "high": None}
    values = {"perplexity": math.exp(losses[1]), "original_perplexity": math.exp(losses[0])}
    return {**{k: {"value": v} for k, v in values.items()}, "perplexity_ratio": ratio}


MEASURES = {"next": next_token, "masked": masked}


def section(rows: dict[str, dict[str, Any]], name: str, shares: Sequence[float]) -> str:
    own = [row for row in rows.values() if row["network"] == name]
    if not own:
        return ""
    index = json.loads((transformers.FOLDER / "index.json").read_text())[name]
    is_text = "perplexity" in own[0]
    lines = []
    for run in dict.fromkeys(row["run"] for row in own):
        found = {row["share"]: row for row in own if row["run"] == run}
        cells = [(_cells if is_text else _points)(found.get(share)) for share in shares]
        lines.append([run, *(cell for part in cells for cell in part)])
    header = ["inputs and method"]
    for share in shares:
        header += [f"−{share:.0%}: perplexity", "ratio", "agreement"] if is_text else [f"−{share:.0%}: lost"]
    before = (
        f"perplexity {own[0]['original_perplexity']['value']:.2f}"
        if is_text
        else (f"accuracy {100 * own[0]['original_accuracy']:.1f}")
    )
    return f"\n## `{name}`\n\n{index['parameters']:,} parameters, {before} before.\n\n" + markdown(
        header, lines
    )


def _points(row: dict[str, Any] | None) -> list[str]:
    return [f"{100 * (row['original_accuracy'] - row['accuracy']):.1f}" if row else ""]


def _cells(row: dict[str, Any] | None) -> list[str]:
    if row is None:
        return ["", "", ""]
    ratio, agreement = row["perplexity_ratio"], row.get("agreement")
    ends = "" if ratio["low"] is None else f" ({ratio['low']:.3f} to {ratio['high']:.3f})"
    return [
        f"{row['perplexity']['value']:.2f}",
        f"{ratio['value']:.3f}{ends}",
        "" if agreement is None else f"{agreement['value']:.1%}",
    ]


if __name__ == "__main__":
    main()
