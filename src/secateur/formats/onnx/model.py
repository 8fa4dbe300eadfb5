"""An ONNX model as a torch module: its graph, run op by op, with its weights under their own names.

Values that shapes are worked out from stay numbers (see `host`), so that torch.export sees plain tensor ops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from keyword import iskeyword
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from secateur.errors import InputError, SecateurError, UnsupportedOpError
from secateur.formats.onnx.batch import Batch, alike
from secateur.formats.onnx.budget import VALUE_BYTES, numbers_made
from secateur.formats.onnx.constants import constants_of
from secateur.formats.onnx.fold import FOLDED, folded, is_plain, on_numbers, read_as_numbers, value_free
from secateur.formats.onnx.host import MOST_SIZES, sizes_made
from secateur.formats.onnx.host import RULES as ON_SIZES
from secateur.formats.onnx.like import as_large_as
from secateur.formats.onnx.linear import as_torch_has_it
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import PLAIN, is_shape_of, tensor
from secateur.formats.onnx.read import inputs_of, opset_of
from secateur.formats.onnx.recurrent import with_torch_weights
from secateur.formats.onnx.table import OPS, SETTINGS
from secateur.formats.onnx.tensors import dtype_of, to_host
from secateur.formats.onnx.whole import as_whole, kept_whole

Proto = Any
_STATISTICS = {"BatchNormalization": (3, 4)}  # inputs that are buffers in torch
_SMALL = 4096  # numbers in a constant that may be a setting
_DEEPEST = 32  # dots in a name that become modules
_FAILURES = (
    *(RuntimeError, TypeError, ValueError, ArithmeticError, MemoryError),
    *(IndexError, KeyError, AttributeError, StopIteration),
)


class Seen:
    """What a run saw. Export puts back attributes that a module sets, but not what is in them."""

    def __init__(self) -> None:
        self.env: dict[str, Any] = {}
        self.names: list[str] = []  # of the tensors

    def noted(self, env: dict[str, Any]) -> list[Tensor]:
        """The tensors among the values."""
        self.env = env
        self.names = [name for name, value in env.items() if isinstance(value, Tensor)]
        return [env[name] for name in self.names]


class OnnxGraph(nn.Module):
    """Runs `proto` on torch tensors. `forward` takes the model's inputs in order, with any batch size."""

    def __init__(self, proto: Proto) -> None:
        super().__init__()
        self.proto = proto
        self.constants = dict(constants_of(proto))  # name → tensor, as it stands in the model
        self.inputs = inputs_of(proto)
        self.outputs = [v.name for v in proto.graph.output]
        self.batch = batch_of(self.inputs)  # the only batch size that the file allows
        nodes, weights = with_torch_weights(self._nodes_of(proto), self.constants, self.outputs)
        self.constants |= weights
        # Weights that are kept as (outputs, inputs), and slopes that are kept as a row.
        nodes, self.transposed, self.flat = as_torch_has_it(nodes, self.constants, self.outputs)
        self.on_numbers = on_numbers(nodes, {*OPS, *ON_SIZES}, self.constants)
        self.nodes = as_large_as(nodes, self.constants, self.on_numbers)
        self.paths = dict[str, str]()  # constant → path of the parameter or buffer
        self.hosts = {  # constants as numbers; made here, since tracing looks at no tensor's values
            name: to_host(value, name) for name, value in self.constants.items() if value.numel() <= _SMALL
        }
        large = read_as_numbers(self.nodes, self.constants, self.on_numbers) - self.hosts.keys()
        self.arrays = {name: self.constants[name].numpy() for name in large}
        self.alike = alike(self.constants, self.batch or 1)
        # Shapes of values with the file's batch, by the shapes of the inputs.
        self.shapes = dict[tuple[Any, ...], dict[str, tuple[int, ...]]]()
        self.last_use = _last_use(self.nodes, self.outputs)
        self.read = {name for n in self.nodes for name in n.inputs} | set(self.outputs)
        on_tensors = [n for n in self.nodes if n.outputs[0] not in self.on_numbers]
        for name, is_parameter in _tensors_read(on_tensors, self.constants).items():
            self._keep(name, is_parameter)  # last: their names must be free
        self._seen: Seen | None = None
        self.eval()

    def _nodes_of(self, proto: Proto) -> list[Node]:
        """The file's nodes but for its constants; those without a rule are kept whole."""
        kept = [n for n in proto.graph.node if not self._is_constant(n)]
        opset = opset_of(proto)
        nodes = [Node.of(n, opset, self.batch) for n in kept]
        free = value_free(nodes, self.constants)
        return [
            node if _has_rule(node, free) else as_whole(node, n, proto.opset_import, self.constants)
            for node, n in zip(nodes, kept, strict=True)
        ]

    def _is_constant(self, node: Proto) -> bool:
        return node.op_type in ("Constant", "ConstantOfShape") and node.output[0] in self.constants

    @property
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples of zeros; `InputError` where an axis other than the batch has no size."""
        return tuple(torch.zeros((2, *shape), dtype=dtype) for shape, dtype in map(shape_of, self.inputs))

    def forward(self, *inputs: Tensor) -> Any:
        found = self.values(inputs, everything=self._seen is not None)
        outputs = [as_output(name, found[name]) for name in self.outputs]
        if self._seen is not None:
            return [*outputs, *self._seen.noted(found)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    @contextmanager
    def watched(self) -> Iterator[Seen]:
        """Meanwhile, `forward` notes all values, and returns the tensors among them after the outputs."""
        self._seen = Seen()
        try:
            yield self._seen
        finally:
            self._seen = None

    def values(self, inputs: Sequence[Tensor], everything: bool = False) -> dict[str, Any]:
        """Values of the outputs, or of everything, by their names in the model."""
        if len(inputs) != len(self.inputs):
            names = ", ".join(v.name for v in self.inputs)
            raise InputError(f"the model takes {len(self.inputs)} inputs ({names}), not {len(inputs)}")
        return self.run(inputs, self.at_hand(inputs), everything=everything)

    def run(
        self, inputs: Sequence[Tensor], batch: Batch | None, *, everything: bool = False
    ) -> dict[str, Any]:
        """Values by name. `batch` says how to run more samples than the file has (see `at_hand`)."""
        env: dict[str, Any] = {v.name: x for v, x in zip(self.inputs, inputs, strict=True)}
        for name in self.outputs:
            if name in self.constants:
                env[name] = self.constants[name]
        for index, node in enumerate(self.nodes):
            results = self.call(node, self.arguments(node, env), batch)
            for name in node.outputs[len(results) :]:
                if name and name in self.read:
                    raise UnsupportedOpError(
                        f"{node}: its output {name!r} has no rule; export the model without it"
                    )
            env.update(zip(node.outputs, results, strict=False))
            if not everything:
                for name in self.last_use[index]:
                    env.pop(name, None)
        return env

    def at_hand(self, inputs: Sequence[Tensor]) -> Batch | None:
        """What to do where the file fixes another batch than that of the inputs; None where it does not."""
        size = inputs[0].shape[0]
        if self.batch is None or (type(size) is int and size == self.batch):
            return None
        key = tuple(tuple(x.shape[1:]) for x in inputs)
        if key not in self.shapes:
            with _disable_current_modes(), torch.no_grad():
                own = [torch.zeros((self.batch, *x.shape[1:]), dtype=x.dtype) for x in inputs]
                found = self.run(own, None, everything=True)
            self.shapes[key] = {name: tuple(v.shape) for name, v in found.items() if isinstance(v, Tensor)}
        return Batch(self.batch, self.shapes[key], self.alike, [v.name for v in self.inputs])

    def call(self, node: Node, given: Sequence[Any], batch: Batch | None = None) -> Sequence[Any]:
        """The node's results on these arguments. Errors name it."""
        try:
            if batch is not None:
                node, given = batch.adjusted(node, given)
            result = self._called(node, given)
        except SecateurError:
            raise
        except _FAILURES as error:
            shapes = [tuple(v.shape) for v in given if v is not None]
            fixed = f"; it fixes the batch at {node.batch}: export it with a free one" if node.batch else ""
            raise InputError(f"{node} cannot be run on values of shapes {shapes}: {error}{fixed}") from error
        results = list(result) if isinstance(result, list | tuple) else [result]
        for value in results:
            if not isinstance(value, np.ndarray) or value.dtype != object:
                continue
            if any(type(n) is int and n.bit_length() > 64 for n in value.flat):
                raise InputError(
                    f"{node} makes a number of more than 64 bits; export the model with constants folded"
                )
        return results

    def _called(self, node: Node, given: Sequence[Any]) -> Any:
        if node.kind in PLAIN and not is_shape_of(*given[-2:]):
            node, given = replace(node, kind=PLAIN[node.kind], inputs=node.inputs[:-1]), given[:-1]
        if not node.inputs or not all(isinstance(v, np.ndarray) for v in given if v is not None):
            return self._on_tensors(node, given)
        if node.kind in ON_SIZES and _are_sizes(node, given):
            if sizes_made(node, given) > MOST_SIZES:
                raise InputError(
                    f"{node} makes more than {MOST_SIZES:,} numbers for shapes; export it folded"
                )
            return ON_SIZES[node.kind](node, *given)
        if node.kind in FOLDED and all(map(is_plain, given)):
            return folded(node, given)
        if node.kind not in OPS and node.kind in {*ON_SIZES, *FOLDED}:
            raise UnsupportedOpError(
                f"{node} works on the size of the batch, which has no rule; export it without"
            )
        return self._on_tensors(node, given)

    def _on_tensors(self, node: Node, given: Sequence[Any]) -> Any:
        settings = SETTINGS.get(node.kind, set())
        if node.kind in _TOLD_SIZES and any(
            isinstance(v, Tensor) for i, v in enumerate(given) if i in settings
        ):
            raise UnsupportedOpError(
                f"{node} is told sizes that depend on the input; export it with fixed ones"
            )
        if (size := 4 * numbers_made(node, given)) > VALUE_BYTES:
            raise InputError(
                f"{node} makes a value of {size:,} bytes; at most {VALUE_BYTES:,} are made for one value"
            )
        if node.kind not in _WITH_NUMBERS:
            like = next((v for v in given if isinstance(v, Tensor)), torch.zeros(0))
            data = [
                isinstance(v, np.ndarray) and i not in settings and is_plain(v) for i, v in enumerate(given)
            ]
            given = [tensor(v, like) if is_data else v for v, is_data in zip(given, data, strict=True)]
        return OPS.get(node.kind, kept_whole)(node, *given)

    def arguments(self, node: Node, env: Mapping[str, Any]) -> list[Any]:
        """Tensors, and numbers where a setting is meant or the node's data are numbers."""
        settings = SETTINGS.get(node.kind, set())
        on_tensors = self._takes_tensors(node, settings, env)
        found: list[Any] = []
        for i, name in enumerate(node.inputs):
            if not name or name in env:
                found.append(env[name] if name else None)
            elif i not in settings and on_tensors and name in self.paths:
                found.append(self.get_tensor(name))
            elif name in self.hosts:
                found.append(self.hosts[name])
            elif name in self.arrays:
                found.append(self.arrays[name])
            else:
                raise UnsupportedOpError(
                    f"{node} reads {name!r} of {self.constants[name].numel():,} numbers as sizes"
                )
        return found

    def _takes_tensors(self, node: Node, settings: set[int], env: Mapping[str, Any]) -> bool:
        """Whether the constants that the node reads are weights; else they are numbers."""
        if node.outputs[0] in self.on_numbers:
            return False
        if node.kind not in FOLDED and node.kind not in ON_SIZES:
            return True
        data = [name for i, name in enumerate(node.inputs) if name and i not in settings]
        made = [env[name] for name in data if name in env]
        if made:
            return any(isinstance(value, Tensor) for value in made)
        return any(name in self.paths and self.constants[name].is_floating_point() for name in data)

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
        if name in self.transposed:
            value = value.t().contiguous()
        elif name in self.flat:
            value = value.reshape(-1)
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


def _has_rule(node: Node, free: set[str]) -> bool:
    """Whether the node is run by a rule, or evaluated on numbers; any other is kept whole."""
    return (
        node.kind in OPS or node.kind in ON_SIZES or (node.kind in FOLDED and free.issuperset(node.outputs))
    )


def _taken(owner: nn.Module, name: str) -> bool:
    return hasattr(type(owner), name) or hasattr(owner, name)


class Names(nn.Module):
    """A part of a name with dots."""


def shape_of(value: Proto) -> tuple[list[int], torch.dtype]:
    """The shape of one sample of an input, and its type."""
    kind = value.type.tensor_type
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim]
    if not sizes:
        raise InputError(f"the input {value.name!r} has no batch axis; export the model with one")
    free = [str(d.dim_param) or "?" for d in list(kind.shape.dim)[1:] if not d.HasField("dim_value")]
    if free:
        raise InputError(
            f"the input {value.name!r} leaves the axes {', '.join(free)} open; say one size: --example-shape "
            "3,224,224"
        )
    return [int(s) for s in sizes[1:] if s is not None], dtype_of(kind.elem_type)


def batch_of(inputs: Sequence[Proto]) -> int | None:
    """The batch size that the inputs fix, or None.

    None also where axis 0 has the steps of a sequence, and the batch is the free axis 1.
    """
    shapes = [list(v.type.tensor_type.shape.dim) for v in inputs]
    if any(len(dims) > 2 and dims[0].dim_value > 1 and not dims[1].HasField("dim_value") for dims in shapes):
        return None
    sizes = {dims[0].dim_value for dims in shapes if dims and dims[0].HasField("dim_value")}
    return sizes.pop() or None if len(sizes) == 1 else None


def _tensors_read(nodes: Sequence[Node], constants: Mapping[str, Tensor]) -> dict[str, bool]:
    """Constants that are data somewhere → whether they are parameters (statistics of norms are buffers)."""
    found = dict[str, bool]()
    for node in nodes:
        for i, name in enumerate(node.inputs):
            if name not in constants or i in SETTINGS.get(node.kind, set()):
                continue
            value = constants[name]
            if value.numel() == 1 and value.ndim < 2 and node.kind in _WITH_NUMBERS - {"Concat"}:
                continue
            if not value.is_floating_point() and (value.numel() <= 1 or node.kind == "Gather"):
                continue
            found[name] = found.get(name, True) and i not in _STATISTICS.get(node.kind, ())
    return found


_WITH_NUMBERS = {  # ops whose rules take numbers beside tensors
    *("Add", "Sub", "Mul", "Div", "Pow", "Where", "Compress", "Concat", "Gather", "Shape", "Size"),
    *PLAIN,
    *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
}
_TOLD_SIZES = frozenset(
    "ConstantOfShape Expand Range Reshape Resize Slice Split Squeeze Tile Unsqueeze".split()
)
_MOST_PLAIN = 1024  # numbers that are worked on one by one


def _are_sizes(node: Node, given: Sequence[Any]) -> bool:
    """Whether to work on Python's numbers, which may be a free batch and know where they come from."""
    if node.kind not in FOLDED:
        return True
    plain = all(map(is_plain, given))
    if plain and any(v is not None and (v.dtype != object or v.size > _MOST_PLAIN) for v in given):
        return False
    if plain and numbers_made(node, given) > _MOST_PLAIN:
        return False
    sizes = [given[i] for i in SETTINGS.get(node.kind, ()) if i < len(given)]  # which must be numbers
    return plain or all(map(is_plain, sizes))


def as_output(name: str, value: Any) -> Tensor:
    """A value as a model gives it; numbers become a tensor."""
    if isinstance(value, Tensor):
        return value
    if not is_plain(value):
        raise UnsupportedOpError(f"the output {name!r} is the size of the batch; export the model without it")
    return tensor(value, torch.zeros(0))


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
