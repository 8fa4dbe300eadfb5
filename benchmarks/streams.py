"""Transformers with and without their residual streams cut, at the same number of parameters.

    cd benchmarks
    python streams.py --packages DIR [--output DIR] [--networks NAME …]

DIR holds the packages that `networks/transformers/texts.py` names. Units are chosen and layers refitted on 64
training sequences, or 128 pictures; 64 held-out sequences, or 2,000 test pictures, measure. Rows that
streams.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import secateur
from networks import transformers
from shared import arguments, machine, markdown

SEQUENCES, PICTURES, TESTED = 64, 128, 2000
SHARES = (0.1, 0.2, 0.3)  # of the parameters
WAYS = {"heads and hidden units": False, "and streams": True}


@dataclass(frozen=True)
class Data:
    """What a network is pruned on, and a function that measures the result."""

    inputs: Tensor
    measure: Callable[[nn.Module, nn.Module], float]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--packages", type=Path, required=True, help="folder with the packages")
    names = ["text_gpt", "fashion_vit", "text_llama"]
    parser.add_argument("--networks", nargs="*", default=names, choices=names, help="default: all")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / "streams.json"
    rows: dict[str, dict[str, Any]] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in options.networks:
        model = transformers.load(name)
        data = pictures(options.shared) if name.endswith("vit") else text(name, options.packages)
        for share in SHARES:
            for way, streams in WAYS.items():
                key = f"{name}|{share:g}|{way}"
                if key not in rows:
                    rows[key] = row(model, data, share, streams)
                    print(key, rows[key], file=sys.stderr, flush=True)
                    path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    lines = [
        [*key.split("|"), f"{found['removed']:.1%}", f"{found['measured']:.4f}"]
        for key, found in rows.items()
    ]
    print(
        markdown(["network", "asked", "what leaves", "parameters gone", "accuracy, or perplexity ×"], lines)
    )


def row(model: nn.Module, data: Data, share: float, streams: bool) -> dict[str, float]:
    result = secateur.prune(
        model,
        data.inputs[:1],
        remove=f"params={share:.0%}",
        streams=streams,
        calibration=data.inputs,
        surrogate="none",
        samples=len(data.inputs),
    )
    after = sum(p.numel() for p in result.model.parameters())
    return {"removed": 1 - after / result.before.parameters, "measured": data.measure(result.model, model)}


def text(name: str, packages: Path) -> Data:
    train, held_out = (some(part, SEQUENCES) for part in transformers.sequences(name, packages))

    def ratio(small: nn.Module, model: nn.Module) -> float:
        found = secateur.evaluate(small, held_out, original=model).language
        assert found is not None
        assert found.perplexity_ratio is not None
        return found.perplexity_ratio.value

    return Data(train, ratio)


def some(sequences: Tensor, count: int) -> Tensor:
    return sequences[torch.linspace(0, len(sequences) - 1, count).long()]


def pictures(shared: Path) -> Data:
    arrays = np.load(shared / "data" / "fashion_mnist.npz")
    own, test = (
        torch.from_numpy(arrays[f"{part}_images"][:count]).reshape(-1, 1, 28, 28) / 255
        for part, count in (("oracle", PICTURES), ("test", TESTED))
    )
    labels = torch.from_numpy(arrays["test_labels"][:TESTED]).long()

    def accuracy(small: nn.Module, _: nn.Module) -> float:
        with torch.no_grad():
            found = torch.cat([small(part).argmax(1) for part in test.split(250)])
        return float((found == labels).double().mean())

    return Data(own, accuracy)


if __name__ == "__main__":
    main()
