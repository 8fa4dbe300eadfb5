"""Accuracy at equal latency: a target in latency beside targets in MACs, with `allocation="global"`.

Each pruned network is timed in turns with its original, in torch and in onnxruntime; the share of latency
that is gone is this measurement, whatever was asked. Reported for each network and runtime: all results; and
the accuracy of both kinds of target at the same measured shares, linear between the nearest results. Also
how near the measured latency comes to the one asked, and what measuring the layers takes. Rows that
LATENCY.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.timing.clock import Clock
from shared import arguments, load_zoo, markdown, test_data, write

NETWORKS = ("fashion_cnn", "cifar_resnet20", "cifar_vgg11")
RUNTIMES = ("torch", "onnxruntime")
ASKED = {
    "latency": ("20%", "30%", "40%", "50%"),
    "macs": ("30%", "40%", "50%", "60%", "70%"),
}
SHARES = (0.2, 0.3, 0.4, 0.5)  # at which both are compared
Row = dict[str, Any]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="names in the zoo")
    parser.add_argument("--runtimes", nargs="*", default=RUNTIMES)
    parser.add_argument("--samples", type=int, default=1024, help="surrogates")
    parser.add_argument("--images", type=int, default=4000, help="test images")
    options = parser.parse_args()
    zoo, path = load_zoo(options.shared), options.output / "latency.json"
    rows: list[Row] = json.loads(path.read_text())["results"] if path.is_file() else []
    done = {(r["network"], r["runtime"], r["asked"]) for r in rows}
    for name in options.networks:
        images, labels = (x[: options.images] for x in test_data(zoo, name, options.shared))
        for runtime in options.runtimes:
            model, example = as_run_in(runtime, zoo.load(name), images[:1])
            for quantity, shares in ASKED.items():
                for asked in (f"{quantity}={share}" for share in shares):
                    if (name, runtime, asked) not in done:
                        row = pruned(model, example, asked, options.samples, images, labels)
                        rows.append({"network": name, "runtime": runtime, "asked": asked, **row})
                        options.output.mkdir(parents=True, exist_ok=True)
                        write(options.output, "latency", tables(rows), rows)
    write(options.output, "latency", tables(rows), rows)


def as_run_in(runtime: str, model: nn.Module, image: Tensor) -> tuple[nn.Module, Tensor | None]:
    """The model, for onnxruntime as one that came as ONNX; and example inputs where it has none."""
    if runtime == "torch":
        return model, image
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        secateur.save_model(path, model, image)
        loaded = secateur.load_model(path)
    assert isinstance(loaded, nn.Module)
    return loaded, None


def pruned(
    model: nn.Module, example: Tensor | None, asked: str, samples: int, images: Tensor, labels: Tensor
) -> Row:
    begin = time.perf_counter()
    try:
        result = secateur.prune(
            model, example, remove=asked, allocation="global", normalize="none", samples=samples
        )
    except secateur.SecateurError as error:
        return {"error": str(error)}
    seconds = time.perf_counter() - begin
    turns = Clock(model, example, torch.get_num_threads()).compare(result.model)
    low, high = (1 - ratio for ratio in reversed(turns.ratio_interval))
    with torch.no_grad():
        guesses = torch.cat([result.model(batch).argmax(1) for batch in images.split(500)])
    told = result.latency
    return {
        "latency_gone": 1 - turns.ratio,
        "interval": [low, high],
        "macs_gone": 1 - result.after.macs / result.before.macs,
        "accuracy": float((guesses == labels).double().mean()),
        "predicted_gone": None if told is None else 1 - told.predicted / told.before,
        "shortfall": result.shortfall,
        "seconds": seconds,
    }


def tables(rows: Sequence[Row]) -> str:
    found = [row for row in rows if "error" not in row]
    header = ("network", "runtime", "asked", "latency predicted", "latency gone", "MACs gone", "accuracy")
    every = markdown(
        header,
        [
            (
                row["network"],
                row["runtime"],
                row["asked"],
                *(
                    "" if row[n] is None else f"{row[n]:.1%}"
                    for n in ("predicted_gone", "latency_gone", "macs_gone", "accuracy")
                ),
            )
            for row in found
        ],
    )
    places = dict.fromkeys((row["network"], row["runtime"]) for row in found)
    compared = []
    for place in places:
        here = [row for row in found if (row["network"], row["runtime"]) == place]
        cells = []
        for share in SHARES:
            pair = [accuracy_at([r for r in here if r["asked"].startswith(q)], share) for q in ASKED]
            cells.append(" / ".join("–" if value is None else f"{value:.1%}" for value in pair))
        compared.append((*place, *cells))
    shares = [f"{share:.0%} of latency gone" for share in SHARES]
    return f"{markdown(('network', 'runtime', *shares), compared)}\nlatency / MACs\n\n{every}"


def accuracy_at(rows: Sequence[Row], share: float) -> float | None:
    """Linear between the nearest results on both sides; None beyond them."""
    below = [r for r in rows if r["latency_gone"] <= share]
    above = [r for r in rows if r["latency_gone"] > share]
    if not below or not above:
        return None
    a = max(below, key=lambda r: r["latency_gone"])
    b = min(above, key=lambda r: r["latency_gone"])
    part = (share - a["latency_gone"]) / (b["latency_gone"] - a["latency_gone"])
    return float(a["accuracy"] + part * (b["accuracy"] - a["accuracy"]))


if __name__ == "__main__":
    main()
