"""The zoo as ONNX files: the same network from torch and from ONNX, pruned by `reconstruct` with the same
seed.

Reported: whether both ways chose the same units; accuracy of the pruned networks (test images only measure);
seconds of `prune` either way; bytes of the file and its latency in onnxruntime, before and after. Files are
written by torch's exporter as it comes, which folds batch norms into convolutions: there the two ways start
from different weights.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import secateur
from shared import arguments, load_zoo, markdown, test_data, write


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", help="names in the zoo (default: all)")
    parser.add_argument("--remove", type=float, default=0.5)
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    rows = {name: row(zoo, name, options.shared, options.remove) for name in options.networks or zoo.NAMES}
    write(options.output, "onnx", table(rows, options.remove), rows)


def row(zoo: Any, name: str, shared: Path, remove: float) -> dict[str, Any]:
    images, labels = test_data(zoo, name, shared)
    images, labels = images[:2000], labels[:2000]
    with tempfile.TemporaryDirectory() as folder:
        file, small = Path(folder) / "net.onnx", Path(folder) / "small.onnx"
        original = zoo.load(name)
        secateur.save_model(file, original, images[:2])
        from_torch, seconds_torch = pruned(original, images[:2], remove)
        model = secateur.load_model(file)
        from_onnx, seconds_onnx = pruned(model, images[:2], remove)
        secateur.save_model(small, from_onnx.model)
        report = secateur.evaluate(
            secateur.load_model(small), images, labels, original=model, batch_size=64, latency=True
        )
        assert report.original_accuracy is not None and report.cost_before is not None
        return {
            "same_units": kept(from_torch) == kept(from_onnx),
            "original": report.original_accuracy[1],
            "from_torch": secateur.evaluate(from_torch.model, images, labels).accuracy[1],
            "from_onnx": report.accuracy[1],
            "seconds": [seconds_torch, seconds_onnx],
            "bytes": [file.stat().st_size, small.stat().st_size],
            "latency_ms": [report.cost_before.latency_ms, report.cost.latency_ms],
        }


def pruned(model: Any, example: torch.Tensor, remove: float) -> tuple[secateur.Result, float]:
    begin = time.perf_counter()
    result = secateur.prune(model, example, remove=remove, round_to=1)
    return result, time.perf_counter() - begin


def kept(result: secateur.Result) -> list[tuple[int, ...]]:
    return [group.kept for group in result.recipe.groups]


def table(rows: dict[str, dict[str, Any]], remove: float) -> str:
    lines = [
        [
            name,
            "yes" if r["same_units"] else "no",
            f"{100 * r['original']:.1f}",
            f"{100 * r['from_torch']:.1f} / {100 * r['from_onnx']:.1f}",
            " / ".join(f"{s:.1f}" for s in r["seconds"]),
            " → ".join(f"{b / 1000:,.0f}" for b in r["bytes"]),
            " → ".join(f"{ms:.2f}" for ms in r["latency_ms"]),
        ]
        for name, r in rows.items()
    ]
    header = [
        "network",
        "same units",
        "original",
        "pruned: torch / ONNX",
        "s: torch / ONNX",
        "kB",
        "ms, batch of 64",
    ]
    return f"# ONNX files\n\n{remove:.0%} of units removed.\n\n" + markdown(header, lines)


if __name__ == "__main__":
    main()
