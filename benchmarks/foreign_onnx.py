"""ONNX files of other projects: do they load, are they pruned, do they run in onnxruntime, how far do outputs
move?

    python benchmarks/foreign_onnx.py det.onnx@3,320,320 tokens.onnx@128:int64 --remove 0.2

Each file is named by its path, then, where it leaves axes open, `@` and the shape of one sample for each
input with `;` between them. Every file has a process of its own, so that its peak of memory can be told.
Nothing is downloaded.

Drift is measured in onnxruntime on inputs from [0, 1] (random ids for integers): the root mean square of the
change of an output, in shares of that of the output about its mean; of several outputs the largest. Agreement
is the share of equal argmax along axis 1 of the first output of two axes; files without one have none.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

import secateur
from secateur.formats.onnx.model import OnnxGraph
from shared import ROOT, markdown, write

_FLOATS = ("tensor(float)", "tensor(float16)", "tensor(double)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", help="PATH or PATH@SHAPE;SHAPE")
    parser.add_argument("--remove", default="0.2")
    parser.add_argument("--method", default="reconstruct")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=1800, help="at most this long for one file")
    parser.add_argument("--output", type=Path, default=ROOT / "out", help="folder for the table")
    options = parser.parse_args()
    rows = {}
    for file in options.files:
        path, _, shapes = file.partition("@")
        rows[file] = row = in_process(path, shapes, options)
        print(Path(path).name, row, flush=True)
    write(options.output, "foreign_onnx", table(rows), rows)


def in_process(path: str, shapes: str, options: argparse.Namespace) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(theirs, path, shapes, options))
    process.start()
    theirs.close()
    try:
        row = (
            ours.recv()
            if ours.poll(options.seconds)
            else {"error": f"not done after {options.seconds:.0f} s"}
        )
    except EOFError:
        row = {"error": "the process was ended from outside (memory?)"}
    process.kill()
    process.join()
    return dict(row)


def work(out: Any, path: str, shapes: str, options: argparse.Namespace) -> None:
    try:
        row = prune_and_run(path, shapes, options)
    except Exception as error:
        row = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    row["gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    out.send(row)


def prune_and_run(path: str, shapes: str, options: argparse.Namespace) -> dict[str, Any]:
    begin = time.perf_counter()
    model = secateur.load_model(path)
    assert isinstance(model, OnnxGraph)
    example = tuple(sample(text) for text in shapes.split(";")) if shapes else model.example_inputs
    coupling = secateur.inspect(model, example)
    loading, begin = time.perf_counter() - begin, time.perf_counter()
    result = secateur.prune(
        model, example, remove=options.remove, method=options.method, samples=options.samples, progress=False
    )
    pruning = time.perf_counter() - begin
    with tempfile.TemporaryDirectory() as folder:
        small = str(Path(folder) / "small.onnx")
        secateur.save_model(small, result.model)
        moved, agreement = drift(path, small, model, example)
    return {
        "units": sum(g.units for g in coupling.groups if not g.pinned),
        "seconds": [loading, pruning],
        "parameters": [result.before.parameters, result.after.parameters if hasattr(result, "after") else
                       result.history[-1].parameters],
        "drift": moved,
        "agreement": agreement,
    }  # fmt: skip


def sample(text: str) -> torch.Tensor:
    sizes, _, dtype = text.partition(":")
    return torch.zeros(
        (2, *(int(n) for n in sizes.split(",") if n)), dtype=getattr(torch, dtype or "float32")
    )


def drift(
    before: str, after: str, model: OnnxGraph, example: tuple[torch.Tensor, ...]
) -> tuple[float, float | None]:
    old, new = (onnxruntime.InferenceSession(p, providers=["CPUExecutionProvider"]) for p in (before, after))
    generator, batch = np.random.default_rng(1), model.batch or 4
    pairs: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    runs = [feed(generator, old, example, batch) for _ in range(max(1, 8 // batch))]
    answers = [(old.run(None, x), new.run(None, x)) for x in runs]
    for parts in zip(*(zip(a, b, strict=True) for a, b in answers), strict=True):
        pairs.append(
            tuple(np.concatenate([part[i].reshape(1, *part[i].shape) for part in parts]) for i in (0, 1))
        )  # type: ignore[arg-type]
    moved = [
        float(np.sqrt(np.mean((a - b) ** 2.0)) / (a.std() + 1e-12)) for a, b in pairs if a.dtype.kind == "f"
    ]
    tables = [(a, b) for a, b in pairs if a.ndim == 3]
    same = float(np.mean(tables[0][0].argmax(-1) == tables[0][1].argmax(-1))) if tables else None
    return max(moved, default=0.0), same


def feed(generator: Any, session: Any, example: tuple[torch.Tensor, ...], batch: int) -> dict[str, Any]:
    return {
        value.name: generator.random((batch, *x.shape[1:])).astype(x.numpy().dtype)
        if value.type in _FLOATS
        else generator.integers(0, 100, (batch, *x.shape[1:])).astype(x.numpy().dtype)
        for value, x in zip(session.get_inputs(), example, strict=True)
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    header = ["file", "loads", "units", "s: load / prune", "parameters", "drift", "agreement", "GiB"]
    lines = []
    for file, row in rows.items():
        name = Path(file.partition("@")[0]).name
        if "error" in row:
            lines.append([name, f"no: {row['error'][:160]}", *["—"] * 5, f"{row.get('gigabytes', 0):.1f}"])
            continue
        same = "—" if row["agreement"] is None else f"{row['agreement']:.2f}"
        lines.append(
            [
                name,
                "yes",
                f"{row['units']:,}",
                " / ".join(f"{s:.0f}" for s in row["seconds"]),
                " → ".join(f"{p:,}" for p in row["parameters"]),
                f"{row['drift']:.2g}",
                same,
                f"{row['gigabytes']:.1f}",
            ]
        )
    return markdown(header, lines)


if __name__ == "__main__":
    main()
