"""A layer by itself, of any width, as a pass that can be timed: one function for each runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from secateur.formats.format import Runtime
from secateur.formats.onnx.check import inference_session
from secateur.timing.parts import Shape

Pass = Callable[[], object]


def resized_shape(shape: Shape, inputs: int, outputs: int) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """Shapes of the input and the weight, and the number of groups, for so many channels.

    A depthwise convolution keeps one channel in each group; other grouped ones keep their groups.
    """
    x = list(shape.x)
    x[shape.channel_axis] = inputs
    groups, weight = shape.groups, list(shape.weight)
    if groups > 1 and groups == shape.x[1]:
        groups = inputs
    if shape.op.startswith("conv_transpose"):
        weight[:2] = inputs, outputs // groups
    elif shape.op == "linear":
        weight[:] = outputs, inputs
    else:
        weight[:2] = outputs, inputs // groups
    return tuple(x), tuple(weight), groups


def layer_pass(runtime: Runtime, shape: Shape, inputs: int, outputs: int) -> Pass:
    """A forward pass of the layer with so many channels, with random weights."""
    return _PASSES[runtime](shape, inputs, outputs)


def empty_pass(runtime: Runtime) -> Pass:
    """A call that computes next to nothing."""
    if runtime == "torch":
        return lambda: None
    from onnx import helper

    return _session_pass([helper.make_node("Identity", ["x"], ["y"])], torch.zeros(1), {})


def _tensors(shape: Shape, inputs: int, outputs: int) -> tuple[Tensor, Tensor, Tensor | None, int]:
    x, weight, groups = resized_shape(shape, inputs, outputs)
    dtype, generator = getattr(torch, shape.dtype), torch.Generator().manual_seed(0)

    def drawn(*size: int) -> Tensor:
        return torch.rand(size, generator=generator).to(dtype)

    return drawn(*x), drawn(*weight), drawn(outputs) if shape.bias else None, groups


def _in_torch(shape: Shape, inputs: int, outputs: int) -> Pass:
    x, weight, bias, groups = _tensors(shape, inputs, outputs)
    function: Callable[..., Tensor] = getattr(torch.nn.functional, shape.op)
    settings = dict(shape.settings) | ({"groups": groups} if shape.op != "linear" else {})
    return lambda: function(x, weight, bias, **settings)


def _in_onnxruntime(shape: Shape, inputs: int, outputs: int) -> Pass:
    from onnx import helper

    x, weight, bias, groups = _tensors(shape, inputs, outputs)
    if shape.op == "linear":
        names, tensors = ["x", "w"], {"w": weight.t().contiguous()}
        if bias is None or x.ndim > 2:
            node = helper.make_node("MatMul", names, ["y"])
        else:
            node, tensors = helper.make_node("Gemm", [*names, "b"], ["y"]), tensors | {"b": bias}
        return _session_pass([node], x, tensors)
    tensors = {"w": weight} | ({} if bias is None else {"b": bias})
    op = "ConvTranspose" if shape.op.startswith("conv_transpose") else "Conv"
    node = helper.make_node(op, ["x", *tensors], ["y"], group=groups, **_attributes(shape))
    return _session_pass([node], x, tensors)


def _attributes(shape: Shape) -> dict[str, Any]:
    """Settings of a convolution as ONNX writes them."""
    kernel, settings = shape.weight[2:], dict(shape.settings)

    def spread(name: str, default: int = 0) -> list[int]:
        value = settings.get(name, default)
        values = list(value) if isinstance(value, tuple) else [value]
        return values * len(kernel) if len(values) == 1 else values

    found: dict[str, Any] = {
        "kernel_shape": kernel,
        "strides": spread("stride", 1),
        "dilations": spread("dilation", 1),
    }
    if isinstance(settings.get("padding"), str):
        return found | {"auto_pad": "SAME_UPPER" if settings["padding"] == "same" else "VALID"}
    found["pads"] = spread("padding") * 2
    if "output_padding" in settings:
        found["output_padding"] = spread("output_padding")
    return found


def _session_pass(nodes: list[Any], x: Tensor, tensors: dict[str, Tensor]) -> Pass:
    from onnx import helper, numpy_helper

    number = helper.np_dtype_to_tensor_dtype(x.numpy().dtype)
    ends = [
        helper.make_tensor_value_info("x", number, list(x.shape)),
        helper.make_tensor_value_info("y", number, None),
    ]
    weights = [numpy_helper.from_array(value.numpy(), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "layer", ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    session, fed = inference_session(proto, spin=False), {"x": x.numpy()}
    return lambda: session.run(None, fed)


_PASSES: dict[Runtime, Callable[[Shape, int, int], Pass]] = {
    "torch": _in_torch,
    "onnxruntime": _in_onnxruntime,
}
