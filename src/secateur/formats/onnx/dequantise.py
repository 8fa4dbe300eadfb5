"""A quantised model in the QDQ form as the float model that it rounds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.errors import UnsupportedOpError, few
from secateur.formats.onnx.constants import constants_of
from secateur.formats.onnx.edit import drop_unread, in_order
from secateur.formats.onnx.read import QDQ
from secateur.formats.onnx.tensors import to_proto

Proto = Any
# Ops whose values are not negative, and ops that keep values so.
_NOT_NEGATIVE = ("Relu", "Sigmoid", "Softmax")
_KEEPING = (
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
)


def dequantised(path: str | os.PathLike[str], proto: Proto) -> Proto:
    """The float model: weights as they are read, and values without rounding.

    A value whose range begins at zero passes a ReLU, since quantisers drop one where rounding cuts at zero,
    too. Upper ends of ranges are dropped.

    Raises:
        UnsupportedOpError: A node reads rounded values, or weights are quantised in blocks; its name is told.
    """
    made = type(proto)()
    made.CopyFrom(proto)
    constants = dict(constants_of(made))
    quantisers = {n.output[0]: n for n in made.graph.node if n.op_type == "QuantizeLinear"}
    _refuse_others(path, made, quantisers, constants)
    names = dict[str, str]()  # of a value that was rounded: the name of the float value
    positive = set[str]()
    inputs = {value.name for value in made.graph.input}
    nodes = list(made.graph.node)
    del made.graph.node[:]
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            continue
        if node.op_type != "DequantizeLinear":
            node.input[:] = [names.get(name, name) for name in node.input]
            made.graph.node.append(node)
            if node.op_type in _NOT_NEGATIVE or (node.op_type in _KEEPING and node.input[0] in positive):
                positive.update(node.output)
        elif node.input[0] in constants:
            made.graph.initializer.append(to_proto(_values(path, node, constants), node.output[0]))
        else:
            rounded = quantisers[node.input[0]]
            given = names.get(rounded.input[0], rounded.input[0])
            if _from_zero(rounded, constants) and given not in positive | inputs | constants.keys():
                given = _relu(made, given)
                positive.add(given)
            names[node.output[0]] = given
    _name_outputs(made, names)
    drop_unread(made)
    del made.graph.value_info[:]
    return in_order(made)


def _refuse_others(
    path: str | os.PathLike[str],
    proto: Proto,
    quantisers: Mapping[str, Proto],
    constants: Mapping[str, Tensor],
) -> None:
    """Rounded values go into DequantizeLinear alone, which reads nothing else but weights; scales are
    constants.
    """

    def has_float_form(node: Proto) -> bool:
        if node.op_type not in QDQ:
            return not set(node.input) & quantisers.keys()
        known = set(node.input[1:]) <= constants.keys() | {""} and _types_fit(node, constants)
        return known and (
            node.op_type == "QuantizeLinear" or node.input[0] in quantisers.keys() | constants.keys()
        )

    bad = [f"{n.op_type} {n.name!r}" for n in proto.graph.node if not has_float_form(n)]
    bad += [f"the output {v.name!r}" for v in proto.graph.output if v.name in quantisers]
    if bad:
        raise UnsupportedOpError(
            f"{path} is quantised in a way that has no float form: {few(bad)}; prune the floating-point "
            "model first, then quantise it"
        )


def _types_fit(node: Proto, constants: Mapping[str, Tensor]) -> bool:
    """A scale is a floating-point number, a zero point a whole one."""
    given = [constants[name] for name in node.input[1:] if name in constants]
    return bool(given) and [x.is_floating_point() for x in given] == [True, False][: len(given)]


def _values(path: str | os.PathLike[str], node: Proto, constants: Mapping[str, Tensor]) -> Tensor:
    """(stored − zero point) · scale, with a scale for all or for each channel of the axis."""
    stored, scale = constants[node.input[0]], constants[node.input[1]]
    given = len(node.input) > 2 and node.input[2]
    zero = constants[node.input[2]] if given else torch.zeros_like(scale)
    settings = {a.name: a.i for a in node.attribute}
    axis, shape = settings.get("axis", 1), [1] * stored.ndim
    fits = scale.numel() == 1
    if scale.ndim and not fits and -stored.ndim <= axis < stored.ndim:
        fits = scale.shape == (stored.shape[axis],) and not settings.get("block_size")
        shape[axis] = -1
    if not fits or zero.numel() != scale.numel():
        raise UnsupportedOpError(
            f"{path}: {node.op_type} {node.name!r} has scales of shape {tuple(scale.shape)} for weights of "
            f"shape {tuple(stored.shape)}, not one for each channel; prune the floating-point model "
            "first, then quantise it"
        )
    scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (stored.to(scale.dtype) - zero.to(scale.dtype)) * scale


def _from_zero(node: Proto, constants: Mapping[str, Tensor]) -> bool:
    """Whether the smallest value that the rounded one can have is zero."""
    if len(node.input) < 3 or not node.input[2]:
        return True  # uint8 with the zero point 0
    zero = constants[node.input[2]]
    return bool((zero == torch.iinfo(zero.dtype).min).all())


def _relu(proto: Proto, name: str) -> str:
    import onnx

    output = f"{name}_not_negative"
    if not any(output in node.output for node in proto.graph.node):
        proto.graph.node.append(onnx.helper.make_node("Relu", [name], [output], name=output))
    return output


def _name_outputs(proto: Proto, names: Mapping[str, str]) -> None:
    """Outputs of the model keep their names."""
    import onnx

    for value in proto.graph.output:
        if value.name in names:
            given = names[value.name]
            proto.graph.node.append(
                onnx.helper.make_node("Identity", [given], [value.name], name=f"{value.name}_output")
            )
