"""The time of 2-D convolutions by their number of channels: what `round_to="auto"` rounds to, and why.

For each kind, a stem and four equal layers with ReLU on 28×28 values, for 8 to 128 channels (to 32 in a
group), in onnxruntime (one and two threads) and in torch; dense layers beside them. Reported: milliseconds;
and for each divisor of the number of channels, how long they take relative to as many channels as the next
multiple of 16. Best of `--repeats` turns, in CPU time for one thread (others on the machine do not count), in
wall time for two.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.formats.onnx.read import require_packages
from shared import arguments, markdown, write

BLOCK, SIZE, INPUTS, LAYERS = 16, 28, 16, 4
WIDTHS = (*range(8, 81, 4), 96, 112, 128, 9, 10, 13, 14, 30, 31, 33, 57, 58, 61, 62, 63, 65, 113, 114, 127)
REMAINDERS = {"multiple of 16": 16, "of 8, not 16": 8, "of 4, not 8": 4, "of 2, not 4": 2, "odd": 1}


def regular(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, padding=1)]


def pointwise(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 1)]


def depthwise(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, width, 3, padding=1, groups=width)]


def separable(width: int) -> list[nn.Module]:
    return [*depthwise(width), nn.ReLU(), *pointwise(width)]


def grouped(width: int) -> list[nn.Module]:
    """Four groups: numbers of channels are those of one group."""
    return [nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4)]


def between(width: int) -> list[nn.Module]:
    """Only every other value has this width, the others have 64 channels."""
    return [nn.Conv2d(width, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, width, 3, padding=1)]


def transposed(width: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(width, width, 3, padding=1)]


def one_dimensional(width: int) -> list[nn.Module]:
    return [nn.Conv1d(width, width, 3, padding=1)]


def dense(width: int) -> list[nn.Module]:
    return [nn.Linear(width, width)]


KINDS: dict[str, Callable[[int], list[nn.Module]]] = {
    "3×3": regular,
    "1×1": pointwise,
    "depthwise": depthwise,
    "depthwise and 1×1": separable,
    "4 groups": grouped,
    "3×3, to and from 64": between,
    "transposed 3×3": transposed,
    "1-D": one_dimensional,
    "dense": dense,
}


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    require_packages("onnx", "onnxruntime")
    torch.set_num_threads(1)
    record = {name: measured(name, options.repeats) for name in options.kinds}
    write(options.output, "channels", table(record), record)


def measured(name: str, repeats: int) -> dict[str, dict[int, float]]:
    """Runtime → number of channels → ms."""
    widths = [width for width in sorted(WIDTHS) if name != "4 groups" or width <= 2 * BLOCK]
    nets = {width: network(name, width) for width in widths}
    files = {width: as_onnx(model, example) for width, (model, example) in nets.items()}
    found = {"torch": best({w: in_torch(*nets[w]) for w in widths}, repeats, time.process_time)}
    for threads, clock in ((1, time.process_time), (2, time.perf_counter)):
        passes = {w: in_onnxruntime(files[w], nets[w][1], threads) for w in widths}
        found[f"onnxruntime, {threads} thread{'s' * (threads > 1)}"] = best(passes, repeats, clock)
    return found


def network(name: str, width: int) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    layers = [layer for _ in range(LAYERS) for layer in (*KINDS[name](width), nn.ReLU())]
    shape = {"dense": (1, width), "1-D": (1, width, SIZE * SIZE)}.get(name, (1, INPUTS, SIZE, SIZE))
    channels = 4 * width if name == "4 groups" else width
    stem = [nn.Conv2d(INPUTS, channels, 3, padding=1), nn.ReLU()] if len(shape) == 4 else []
    return nn.Sequential(*stem, *layers).eval(), torch.rand(shape)


def as_onnx(model: nn.Module, example: torch.Tensor) -> bytes:
    """Written node by node: torch's exporter would take most of the benchmark's time."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, weights, value = [], [], "x"
    for number, layer in enumerate(model.children()):
        inputs, attributes = [value], dict[str, Any]()
        for part, tensor in layer.named_parameters():
            inputs.append(f"{part}{number}")
            weights.append(numpy_helper.from_array(tensor.detach().numpy(), inputs[-1]))
        if isinstance(layer, nn.Linear):
            attributes = {"transB": 1}
        elif isinstance(layer, nn.modules.conv._ConvNd):
            attributes = {"pads": [*layer.padding, *layer.padding], "group": layer.groups}
        nodes.append(helper.make_node(OPS[type(layer)], inputs, [f"y{number}"], **attributes))
        value = f"y{number}"
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, example.shape)]
    graph = helper.make_graph(
        nodes, "net", ends, [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)], weights
    )
    model_proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model_proto.SerializeToString())


OPS = {
    nn.Conv1d: "Conv",
    nn.Conv2d: "Conv",
    nn.ConvTranspose2d: "ConvTranspose",
    nn.Linear: "Gemm",
    nn.ReLU: "Relu",
}


def in_onnxruntime(file: bytes, example: torch.Tensor, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    fed = {"x": example.numpy()}
    return lambda: session.run(None, fed)


def in_torch(model: nn.Module, example: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.inference_mode():
            return model(example)

    return run


def best(
    passes: dict[int, Callable[[], object]], repeats: int, clock: Callable[[], float]
) -> dict[int, float]:
    """The least ms of each pass, in turns, after one that does not count."""
    least = dict.fromkeys(passes, float("inf"))
    for turn in range(repeats + 1):
        for width, run in passes.items():
            start = clock()
            run()
            if turn:
                least[width] = min(least[width], 1000 * (clock() - start))
    return least


def relative(times: dict[int, float], divisor: int) -> str:
    """Median, over widths above a block with that divisor and no greater one, of the time against the next
    block's.
    """
    shares = [
        ms / times[-(-width // BLOCK) * BLOCK]
        for width, ms in times.items()
        if width > BLOCK and np.gcd(width, BLOCK) == divisor and -(-width // BLOCK) * BLOCK in times
    ]
    return f"{statistics.median(shares):.2f}" if shares else ""


def table(record: dict[str, dict[str, dict[int, float]]]) -> str:
    rows = [
        [name, runtime, *(relative(times, divisor) for divisor in REMAINDERS.values())]
        for name, runtimes in record.items()
        for runtime, times in runtimes.items()
    ]
    shown: Sequence[int] = (8, 12, 16, 24, 31, 32, 36, 48, 56, 57, 60, 63, 64, 96, 128)
    full = [
        [name, runtime, *(f"{times[width]:.2f}" if width in times else "" for width in shown)]
        for name, runtimes in record.items()
        for runtime, times in runtimes.items()
    ]
    return (
        "# Channels\n\nTime relative to that with as many channels as the next multiple of 16 (median, above "
        "16).\n\n"
        + markdown(["layers", "runtime", *REMAINDERS], rows)
        + f"\nMilliseconds of {LAYERS} layers by number of channels.\n\n"
        + markdown(["layers", "runtime", *map(str, shown)], full)
    )


if __name__ == "__main__":
    main()
