"""An ONNX model as a torch module: its graph, run op by op, with its weights under their own names.

Values that shapes are worked out from stay numbers (see `host`), so that torch.export sees plain tensor ops.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from keyword import iskeyword
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.errors import InputError, SecateurError, UnsupportedOpError
from secateur.formats.onnx import host
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import AFTER, LINEAR, OPS, SETTINGS
from secateur.formats.onnx.read import inputs_of, opset_of
from secateur.formats.onnx.tensors import dtype_of, to_host, to_torch
from secateur.graph.capture import Graph
from secateur.graph.coupling import Coupling

Proto = Any
_STATISTICS = {"BatchNormalization": (3, 4)}  # inputs that are buffers in torch
_SMALL = 4096  # numbers in a constant that may be a setting
_MOST = 2**26  # numbers that the model makes by ConstantOfShape, all together
_DEEPEST = 32  # dots in a name that become modules
_MOST_SIZES = 2**22  # numbers in an array that shapes are worked out from
_MOST_VALUES = 2**31  # numbers in one value
_FAILURES = (
    *(RuntimeError, TypeError, ValueError, ArithmeticError, MemoryError),
    *(IndexError, KeyError, AttributeError, StopIteration),
)


class OnnxModel(nn.Module):
    """Runs `proto` on torch tensors. `forward` takes the model's inputs in order, with any batch size."""

    def __init__(self, proto: Proto) -> None:
        super().__init__()
        self.proto, self.checked = proto, False
        self.constants = dict(_constants(proto))  # name → tensor, as it stands in the model
        self.inputs = inputs_of(proto)
        self.outputs = [v.name for v in proto.graph.output]
        opset, self.batch = opset_of(proto), _batch(self.inputs)
        self.nodes = [
            Node.of(n, opset, self.batch)
            for n in proto.graph.node
            if not (n.op_type in ("Constant", "ConstantOfShape") and n.output[0] in self.constants)
        ]
        self.nodes, transposed, flat = _as_torch_has_it(self.nodes, self.constants, self.outputs)
        self.transposed, self.flat = transposed, flat  # weights that are kept (outputs, inputs), slopes as a row
        self.paths = dict[str, str]()  # constant → path of the parameter or buffer
        self.hosts = {  # constants as numbers; made here, since tracing looks at no tensor's values
            name: to_host(value, name) for name, value in self.constants.items() if value.numel() <= _SMALL
        }
        self.last_use = _last_use(self.nodes, self.outputs)
        self.read = {name for n in self.nodes for name in n.inputs} | set(self.outputs)
        for name, is_parameter in _tensors_read(self.nodes, self.constants).items():  # last: their names must be free
            self._keep(name, is_parameter)
        self.eval()

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples of zeros; `InputError` where an axis other than the batch has no size."""
        return tuple(torch.zeros((2, *shape), dtype=dtype) for shape, dtype in map(shape_of, self.inputs))

    def forward(self, *inputs: Tensor) -> Any:
        found = self.values(inputs)
        outputs = [found[name] for name in self.outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def check(self, inputs: Sequence[Tensor]) -> None:
        """Once: that torch and onnxruntime agree on the model (see `check`)."""
        if not self.checked:
            from secateur.formats.onnx.check import check_import

            check_import(self, inputs)
            self.checked = True

    def shrunk(
        self, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Mapping[str, Tensor]
    ) -> OnnxModel:
        """The same file made smaller (see `write`)."""
        from secateur.formats.onnx.write import shrunk

        return shrunk(self, graph, coupling, small, alive)

    def values(self, inputs: Sequence[Tensor], everything: bool = False) -> dict[str, Any]:
        """Values of the outputs, or of everything, by their names in the model."""
        if len(inputs) != len(self.inputs):
            names = ", ".join(v.name for v in self.inputs)
            raise InputError(f"the model takes {len(self.inputs)} inputs ({names}), not {len(inputs)}")
        env: dict[str, Any] = {v.name: x for v, x in zip(self.inputs, inputs, strict=True)}
        for name in self.outputs:
            if name in self.constants:
                env[name] = self.constants[name]
        for index, node in enumerate(self.nodes):
            results = self.call(node, self.arguments(node, env))
            for name in node.outputs[len(results) :]:
                if name and name in self.read:
                    raise UnsupportedOpError(f"{node}: its output {name!r} has no rule; export the model without it")
            env.update(zip(node.outputs, results, strict=False))
            if not everything:
                for name in self.last_use[index]:
                    env.pop(name, None)
        return env

    def call(self, node: Node, given: Sequence[Any]) -> Sequence[Any]:
        """The node's results on these arguments. Errors name it."""
        try:
            if node.kind in host.RULES and all(isinstance(v, np.ndarray) for v in given if v is not None):
                if _sizes_made(node, given) > _MOST_SIZES:
                    raise InputError(f"{node} makes more than {_MOST_SIZES:,} numbers for shapes; export it folded")
                result = host.RULES[node.kind](node, *given)
            else:
                result = OPS[node.kind](node, *given)
        except SecateurError:
            raise
        except _FAILURES as error:
            shapes = [tuple(v.shape) for v in given if v is not None]
            fixed = "" if node.batch is None else f"; it fixes the batch at {node.batch}: export it with a free one"
            raise InputError(f"{node} cannot be run on values of shapes {shapes}: {error}{fixed}") from error
        results = list(result) if isinstance(result, list | tuple) else [result]
        for value in results:
            if prod(n for n in value.shape if type(n) is int) > _MOST_VALUES:  # symbols say nothing
                raise InputError(f"{node} makes a value of shape {tuple(value.shape)}, which is too large to be run")
            if isinstance(value, np.ndarray) and any(type(n) is int and n.bit_length() > 64 for n in value.flat):
                raise InputError(f"{node} makes a number of more than 64 bits; export the model with constants folded")
        return results

    def arguments(self, node: Node, env: Mapping[str, Any]) -> list[Any]:
        """Tensors, and numbers where a setting is meant or the node's data are numbers."""
        settings = SETTINGS.get(node.kind, set())
        data = [name for i, name in enumerate(node.inputs) if name and i not in settings]
        made = [env[name] for name in data if name in env]
        if made:
            on_tensors = any(isinstance(value, Tensor) for value in made)
        else:
            on_tensors = any(name in self.paths and self.constants[name].is_floating_point() for name in data)
        found: list[Any] = []
        for i, name in enumerate(node.inputs):
            if not name or name in env:
                found.append(env[name] if name else None)
            elif i not in settings and on_tensors and name in self.paths:
                found.append(self.get_tensor(name))
            elif name in self.hosts:
                found.append(self.hosts[name])
            else:
                raise UnsupportedOpError(f"{node} reads {name!r} of {self.constants[name].numel():,} numbers as sizes")
        return found

    def get_tensor(self, name: str) -> Tensor:
        owner: Any = self
        for part in self.paths[name].split("."):
            owner = getattr(owner, part)
        return owner  # type: ignore[no-any-return]

    def _keep(self, name: str, is_parameter: bool) -> None:
        """Register a constant under its own name, as far as torch can hold that."""
        value = self.constants[name]
        if value.numel() == 0:
            raise InputError(f"{name} of shape {tuple(value.shape)} has no numbers in it")
        value = value.t().contiguous() if name in self.transposed else value.reshape(-1) if name in self.flat else value
        owner: nn.Module = self
        # Names become code when torch writes its graphs out, so only harmless signs pass.
        plain = re.sub(r"[^\w./:-]", "_", name, flags=re.ASCII)
        parts = plain.split(".") if plain.count(".") < _DEEPEST else [plain.replace(".", "_")]
        *path, leaf = [f"{part}_" if part in ("", "self") or iskeyword(part) else part for part in parts]
        for depth, part in enumerate(path):
            while _taken(owner, part) and part not in owner._modules:
                part += "_"
            if part not in owner._modules:
                owner.add_module(part, Names())
            path[depth], owner = part, owner.get_submodule(part)
        while _taken(owner, leaf):
            leaf += "_"
        if is_parameter and value.is_floating_point():
            owner.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
        else:
            owner.register_buffer(leaf, value)
        self.paths[name] = ".".join([*path, leaf])


def _taken(owner: nn.Module, name: str) -> bool:
    return hasattr(type(owner), name) or hasattr(owner, name)


class Names(nn.Module):
    """A part of a name with dots."""


def _constants(proto: Proto) -> Iterator[tuple[str, Tensor]]:
    """Initializers, Constant nodes, and what ConstantOfShape makes of constant shapes."""
    known, total = {}, 0
    for t in proto.graph.initializer:
        known[t.name] = to_torch(t)
        yield t.name, known[t.name]
    for n in proto.graph.node:
        value: Tensor | None = None
        if n.op_type == "Constant":
            value = _constant(n)
        elif n.op_type == "ConstantOfShape" and n.input[0] in known:
            sizes = [int(v) for v in known[n.input[0]].reshape(-1).tolist()]
            total += prod(sizes)
            if any(s < 0 or s > _MOST for s in sizes) or total > _MOST:
                raise InputError(
                    f"ConstantOfShape {n.name or n.output[0]!r} makes a tensor of shape {sizes}; all together they may "
                    f"hold at most {_MOST:,} numbers. Export the model with constants folded"
                )
            fill = to_torch(n.attribute[0].t) if n.attribute else torch.zeros(1)
            if fill.numel() != 1:
                raise InputError(f"ConstantOfShape {n.name or n.output[0]!r} needs one number to fill with")
            value = torch.full(sizes, fill.item(), dtype=fill.dtype)
        if value is not None:
            known[n.output[0]] = value
            yield n.output[0], value


def _constant(node: Proto) -> Tensor:
    for a in node.attribute:
        if a.name == "value":
            return to_torch(a.t)
        if a.name in ("value_float", "value_floats"):
            return torch.tensor(a.f if a.name == "value_float" else list(a.floats), dtype=torch.float32)
        if a.name in ("value_int", "value_ints"):
            return torch.tensor(a.i if a.name == "value_int" else list(a.ints), dtype=torch.int64)
    raise UnsupportedOpError(f"Constant {node.output[0]!r} holds no numbers")


def shape_of(value: Proto) -> tuple[list[int], torch.dtype]:
    """The shape of one sample of an input, and its type."""
    kind = value.type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if not sizes:
        raise InputError(f"the input {value.name!r} has no batch axis; export the model with one")
    free = [str(d.dim_param) or "?" for d in list(kind.shape.dim)[1:] if not d.HasField("dim_value")]
    if free:
        raise InputError(
            f"the input {value.name!r} leaves the axes {', '.join(free)} open; say one size: --example-shape 3,224,224"
        )
    if any(not s for s in sizes[1:]):
        raise InputError(f"the input {value.name!r} has the shape {sizes}, with no numbers in it")
    return [int(s) for s in sizes[1:] if s is not None], dtype_of(kind.elem_type)


def _batch(inputs: Sequence[Proto]) -> int | None:
    """The batch size that the inputs fix, or None."""
    sizes = {
        v.type.tensor_type.shape.dim[0].dim_value
        for v in inputs
        if len(v.type.tensor_type.shape.dim) and v.type.tensor_type.shape.dim[0].HasField("dim_value")
    }
    return sizes.pop() or None if len(sizes) == 1 else None


def _as_torch_has_it(
    nodes: Sequence[Node], constants: Mapping[str, Tensor], outputs: Sequence[str]
) -> tuple[list[Node], set[str], set[str]]:
    """Products with a weight, and the sum with a bias that follows, as torch's linear layers; slopes as rows.

    Their graphs are then those of the same network from torch, and so are the choices that are made on them.
    """
    uses = Counter(name for n in nodes for name in n.inputs) + Counter(outputs)
    readers = {name: n for n in nodes for name in n.inputs}
    transposed, flat, gone = set[str](), set[str](), set[int]()
    found = list[Node]()
    for node in nodes:
        if id(node) in gone:
            continue
        weight = node.inputs[1] if len(node.inputs) > 1 else ""
        own = weight in constants and uses[weight] == 1
        if node.kind == "MatMul" and own and constants[weight].ndim == 2:
            bias, add = _bias_after(node, readers, uses, constants, constants[weight].shape[1])
            if add is not None:
                gone.add(id(add))
            given = (node.inputs[0], weight, *([bias] if bias else []))
            made = add.outputs if add is not None else node.outputs
            node = replace(node, kind=LINEAR, inputs=given, outputs=made)
            transposed.add(weight)
        elif node.kind == "Gemm" and own and not node.attribute("transB", 0):
            node = replace(node, attributes=node.attributes | {"transB": 1})
            transposed.add(weight)
        elif node.kind == "PRelu" and own and max(constants[weight].shape) == constants[weight].numel():
            shape = list(constants[weight].shape)
            after = len(shape) - 1 - shape.index(max(shape))
            node = replace(node, attributes=node.attributes | {AFTER: after})
            flat.add(weight)
        found.append(node)
    return found, transposed, flat


def _sizes_made(node: Node, given: Sequence[Any]) -> int:
    """How many numbers the op handles at most, known before any is made."""
    if node.kind == "Range":
        start, limit, delta = (int(v.item()) for v in given)
        return abs(limit - start) // max(1, abs(delta))
    if node.kind == "Tile":
        return int(given[0].size * prod(int(n) for n in given[1].reshape(-1)))
    if node.kind == "Gather":
        return int(given[1].size * given[0].size)
    if node.kind == "Concat":
        return sum(v.size for v in given)
    if node.kind == "ReduceProd":  # digits add up
        return int(given[0].size ** 2)
    shapes = [v.shape for v in given if v is not None]
    if node.kind in ("ConstantOfShape", "Expand"):
        shapes[-1] = tuple(int(n) for n in given[-1].reshape(-1))
    return prod(max(sizes) for sizes in zip_longest(*(s[::-1] for s in shapes), fillvalue=1))


def _bias_after(
    node: Node, readers: Mapping[str, Node], uses: Mapping[str, int], constants: Mapping[str, Tensor], width: int
) -> tuple[str, Node | None]:
    """The bias that alone is added to the node's result, and the sum."""
    add = readers.get(node.outputs[0])
    if add is None or add.kind != "Add" or uses[node.outputs[0]] != 1:
        return "", None
    other = next((name for name in add.inputs if name != node.outputs[0]), "")
    if other not in constants or tuple(constants[other].shape) != (width,):
        return "", None
    return other, add


def _tensors_read(nodes: Sequence[Node], constants: Mapping[str, Tensor]) -> dict[str, bool]:
    """Constants that are data somewhere → whether they are parameters (statistics of norms are buffers)."""
    found = dict[str, bool]()
    for node in nodes:
        for i, name in enumerate(node.inputs):
            if name not in constants or i in SETTINGS.get(node.kind, set()):
                continue
            value = constants[name]
            if value.numel() == 1 and value.ndim < 2 and node.kind in _WITH_NUMBERS:
                continue
            if not value.is_floating_point() and (value.numel() <= 1 or node.kind == "Gather"):
                continue
            found[name] = found.get(name, True) and i not in _STATISTICS.get(node.kind, ())
    return found


_WITH_NUMBERS = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Where"),
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
}


def _last_use(nodes: Sequence[Node], outputs: Sequence[str]) -> list[list[str]]:
    """For each node, the values that nothing reads after it."""
    last: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in (*node.inputs, *node.outputs):
            last[name] = i
    found: list[list[str]] = [[] for _ in nodes]
    for name, i in last.items():
        if name not in outputs:
            found[i].append(name)
    return found
