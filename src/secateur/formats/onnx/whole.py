"""Ops without a rule, kept whole: onnxruntime runs them one by one, and nothing that they read is pruned.

In the captured graph such a node is the op `secateur::onnxruntime`, which no gradient passes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import UnsupportedOpError
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import tensor
from secateur.formats.onnx.tensors import TYPES, to_proto

Proto = Any
Array = np.ndarray[Any, Any]
_MODEL = "(model)"  # an attribute: the node as a model of its own
_MOST_NUMBERS = 4096  # of whole numbers that become part of that model
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in TYPES.values()}
_TRIED = (2, 3, 5)  # batch sizes at which shapes are found out


def as_whole(node: Node, proto: Proto, opsets: Sequence[Proto], constants: Mapping[str, Tensor]) -> Node:
    """The node with a model of its own, which holds nothing else.

    Whole numbers among its inputs become part of that model.
    """
    import onnx

    own = onnx.NodeProto()
    own.CopyFrom(proto)
    graph = onnx.GraphProto(name="node")
    given = list[str]()
    for i, name in enumerate(node.inputs):
        own.input[i] = f"x{i}" if name else ""
        value = constants.get(name)
        if value is not None and not value.is_floating_point() and value.numel() <= _MOST_NUMBERS:
            graph.initializer.append(to_proto(value, f"x{i}"))
        elif name:
            graph.input.append(onnx.ValueInfoProto(name=f"x{i}"))
            given.append(name)
    own.output[:] = [f"y{i}" if name else "" for i, name in enumerate(node.outputs)]
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in own.output if name)
    graph.node.append(own)
    model = onnx.ModelProto(ir_version=10, graph=graph, opset_import=opsets)
    text = base64.b64encode(model.SerializeToString()).decode()
    return replace(node, inputs=tuple(given), attributes={_MODEL: text})


def kept_whole(node: Node, *given: Any) -> list[Tensor]:
    like = next((x for x in given if isinstance(x, Tensor) and x.is_floating_point()), torch.zeros(0))
    made = torch.ops.secateur.onnxruntime([tensor(x, like) for x in given], node.attribute(_MODEL), str(node))
    found = iter(made)
    return [next(found) if name else made[0] for name in node.outputs]


# --- the op -------------------------------------------------------------------------------------------------


def _run(inputs: list[Tensor], model: str, name: str) -> list[Tensor]:
    like = next((x for x in inputs if x.is_floating_point()), torch.zeros(0))
    made = [torch.from_numpy(y) for y in _values([_single(x) for x in inputs], model, name)]
    return [y.to(like) if y.is_floating_point() else y.to(like.device) for y in made]


def _single(x: Tensor) -> Array:
    """In single precision, whatever the type is."""
    return (x.float() if x.is_floating_point() else x).detach().cpu().contiguous().numpy()


def _values(inputs: Sequence[Array], model: str, name: str) -> list[Array]:
    """What onnxruntime gives."""
    try:
        session = _session(model, tuple(x.dtype.name for x in inputs))
        values = session.run(None, {v.name: x for v, x in zip(session.get_inputs(), inputs, strict=True)})
    except Exception as error:  # onnxruntime has several families of its own
        raise UnsupportedOpError(
            f"{name} has no rule, and onnxruntime cannot run it alone on values of shapes "
            f"{[x.shape for x in inputs]}: {str(error).strip().splitlines()[0][:200]}. Export the model "
            "without it"
        ) from error
    if not all(isinstance(v, np.ndarray) and v.dtype.kind in "fiub" for v in values):
        raise UnsupportedOpError(f"{name} has no rule, and gives something else than tensors of numbers")
    return [np.array(v) for v in values]


@lru_cache(maxsize=64)
def _session(text: str, dtypes: tuple[str, ...]) -> Any:
    import onnx
    import onnxruntime

    model = onnx.ModelProto.FromString(base64.b64decode(text))
    for value, dtype in zip(model.graph.input, dtypes, strict=True):
        value.type.tensor_type.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _shapes(inputs: list[Tensor], model: str, name: str) -> list[Tensor]:
    """What tracing needs: outputs of the right shapes, in which the batch is still a symbol.

    The op is run at three batch sizes, on zeros and on random numbers; every size must be a·batch + c.
    """
    symbols = {s for n in _free_sizes(inputs) for s in n.node.expr.free_symbols}
    if len(symbols) > 1:
        raise UnsupportedOpError(f"{name} has no rule, and its shape depends on {len(symbols)} free sizes")
    symbol = next(iter(symbols), None)
    found = [
        _values(_filled(inputs, symbol, batch, seed), model, name) for batch in _TRIED for seed in range(2)
    ]
    return [_empty_output(inputs, symbol, versions, name) for versions in zip(*found, strict=True)]


def _empty_output(inputs: Sequence[Tensor], symbol: Any, versions: Sequence[Array], name: str) -> Tensor:
    """A tensor of the shape and type of an output that was made at all batch sizes that were tried."""
    sizes = [_size(inputs, symbol, counts) for counts in zip(*(y.shape for y in versions), strict=False)]
    if len({y.ndim for y in versions}) > 1 or any(n is None for n in sizes):
        raise UnsupportedOpError(f"{name} has no rule, and the shape of what it gives depends on the data")
    dtype = _DTYPES[versions[0].dtype.name]
    if versions[0].dtype.kind == "f":
        dtype = next((x.dtype for x in inputs if x.is_floating_point()), dtype)
    return inputs[0].new_empty(sizes, dtype=dtype)


def _filled(inputs: Sequence[Tensor], symbol: Any, batch: int, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    made = []
    for x in inputs:
        sizes: list[Any] = list(x.shape)
        shape = [int(n.node.expr.subs(symbol, batch)) if isinstance(n, torch.SymInt) else n for n in sizes]
        drawn = rng.random(shape) if seed else np.zeros(shape)
        made.append(
            drawn.astype(np.float32 if x.is_floating_point() else str(x.dtype).removeprefix("torch."))
        )
    return made


def _size(inputs: Sequence[Tensor], symbol: Any, counts: Sequence[int]) -> Any:
    """A size, fixed or a·batch + c, from those at the batch sizes tried, twice each; else None."""
    first, second, third = counts[::2]
    if list(counts[::2]) != list(counts[1::2]):
        return None
    if first == second == third:
        return first
    slope = second - first
    if symbol is None or third != second + 2 * slope:
        return None
    expression = slope * symbol + first - 2 * slope
    return _free_sizes(inputs)[0].node.shape_env.create_symintnode(expression, hint=None)


def _free_sizes(inputs: Sequence[Tensor]) -> list[Any]:
    sizes: list[Any] = [n for x in inputs for n in x.shape]
    return [n for n in sizes if isinstance(n, torch.SymInt)]


_LIBRARY = torch.library.Library("secateur", "FRAGMENT")
_LIBRARY.define("onnxruntime(Tensor[] inputs, str model, str name) -> Tensor[]")
_LIBRARY.impl("onnxruntime", _run, "CompositeExplicitAutograd")
_LIBRARY.impl("onnxruntime", torch.library.fallthrough_kernel, "Autograd")
torch.library.register_fake("secateur::onnxruntime", _shapes, lib=_LIBRARY)
