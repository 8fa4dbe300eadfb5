"""`If` nodes whose condition follows from constants and stated sizes: the branch takes their place."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from secateur.errors import InputError, SecateurError
from secateur.formats.onnx.host import RULES, Host, host
from secateur.formats.onnx.node import OWN_DOMAINS, Node
from secateur.formats.onnx.tensors import to_host, to_torch

Proto = Any
_MOST_NUMBERS = 4096  # in a constant that a condition may be worked out from
_DEEPEST = 64  # ops between such a constant and the condition, branches within branches


class _Open:
    """A size that the file leaves open: it may be moved about, and nothing can be worked out from it."""

    def _unknown(self, *other: Any) -> Any:
        raise TypeError("an open size")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __sub__ = __rsub__ = _unknown
    __mul__ = __rmul__ = __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __neg__ = __int__ = __bool__ = (
        _unknown
    )
    __hash__ = None  # type: ignore[assignment]


def with_branches_taken(model: Proto, opset: int) -> Proto:
    """The model without the `If` nodes whose condition is known; the same object where there are none."""
    for _ in range(_DEEPEST):
        chosen = _decided(model, opset)
        if not chosen:
            break
        twin = type(model)()
        twin.CopyFrom(model)
        nodes = [
            _taken(twin.graph, n, chosen[i], i) if i in chosen else [n] for i, n in enumerate(twin.graph.node)
        ]
        flat = [type(n).FromString(n.SerializeToString()) for part in nodes for n in part]
        del twin.graph.node[:]
        twin.graph.node.extend(flat)
        model = twin
    return model


def _decided(model: Proto, opset: int) -> dict[int, bool]:
    """Place of an `If` among the nodes → its condition."""
    places = [i for i, n in enumerate(model.graph.node) if n.op_type == "If" and n.domain in OWN_DOMAINS]
    if not places:
        return {}
    values = _Values(model, opset)
    found = {i: values.of(model.graph.node[i].input[0]) for i in places}
    return {i: bool(value.item()) for i, value in found.items() if value is not None and value.size == 1}


class _Values:
    """Numbers that are known without running the model."""

    def __init__(self, model: Proto, opset: int) -> None:
        self.opset, self.shapes = opset, _shapes(model)
        self.constants = {t.name: t for t in model.graph.initializer}
        self.makers = {name: n for n in model.graph.node for name in n.output}

    def of(self, name: str, depth: int = 0) -> Host | None:
        if name in self.constants:
            return _small(self.constants[name])
        maker = self.makers.get(name)
        if maker is None or depth > _DEEPEST or maker.domain not in OWN_DOMAINS:
            return None
        if maker.op_type == "Constant" and [a.name for a in maker.attribute] == ["value"]:
            return to_host(to_torch(maker.attribute[0].t), "")
        node = Node.of(maker, self.opset, None)
        if maker.op_type == "Shape" and maker.input[0] in self.shapes:
            sizes = self.shapes[maker.input[0]]
            return host(sizes[node.attribute("start", 0) : node.attribute("end", None)])
        return self._worked_out(maker.op_type, node, depth) if maker.op_type in _DECIDING else None

    def _worked_out(self, kind: str, node: Node, depth: int) -> Host | None:
        """What the op gives, where all that it reads is known."""
        given = [self.of(name, depth + 1) if name else None for name in node.inputs]
        if any(value is None and name for value, name in zip(given, node.inputs, strict=True)):
            return None
        try:
            return RULES[kind](node, *given)  # type: ignore[no-any-return]
        except (SecateurError, TypeError, ValueError, ArithmeticError, IndexError):
            return None


def _small(tensor: Proto) -> Host | None:
    if np.prod(tensor.dims, dtype=object) > _MOST_NUMBERS:
        return None
    return to_host(to_torch(tensor), "")


_DECIDING = frozenset(
    "Add And Cast Concat Div Equal Gather Greater GreaterOrEqual Identity Less LessOrEqual Mod Mul Neg Not "
    "Or Slice Squeeze Sub Unsqueeze".split()
)


def _shapes(model: Proto) -> dict[str, list[Any]]:
    """Sizes of values, as far as ONNX infers them from the inputs of the model."""
    import onnx

    with suppress(Exception):  # the sizes that the model states are there still
        model = onnx.shape_inference.infer_shapes(model)
    graph, found = model.graph, {t.name: list(t.dims) for t in model.graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape"):
            found[value.name] = [d.dim_value if d.HasField("dim_value") else _Open() for d in kind.shape.dim]
    return found


# --- putting a branch in place ------------------------------------------------------------------------------


def _taken(graph: Proto, node: Proto, condition: bool, number: int) -> list[Proto]:
    """The nodes of the branch, under names that no other branch has; its constants go to the graph."""
    import onnx

    branch = _branch(node, condition)
    own = [t.name for t in branch.initializer] + [name for n in branch.node for name in n.output if name]
    names = {name: f"{name}_of_if_{number}" for name in own}
    named = type(branch)()
    named.CopyFrom(branch)
    for inner in named.node:
        _rename(inner, names)
    for tensor in named.initializer:
        tensor.name = names[tensor.name]
        graph.initializer.append(tensor)
    ends = [
        onnx.helper.make_node("Identity", [names.get(inside.name, inside.name)], [outside])
        for inside, outside in zip(branch.output, node.output, strict=True)
        if outside
    ]
    return [*named.node, *ends]


def _branch(node: Proto, condition: bool) -> Proto:
    name = "then_branch" if condition else "else_branch"
    branch = next((a.g for a in node.attribute if a.name == name), None)
    if branch is None or len(branch.output) != len(node.output):
        raise InputError(
            f"If {node.name or node.output[0]!r} has no branch with as many outputs; export it again"
        )
    return branch


def _rename(node: Proto, names: Mapping[str, str]) -> None:
    """Everywhere in the node, graphs inside it included."""
    node.input[:] = [names.get(name, name) for name in node.input]
    node.output[:] = [names.get(name, name) for name in node.output]
    for attribute in node.attribute:
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for part in inner.node:
                _rename(part, names)
            for value in inner.output:
                value.name = names.get(value.name, value.name)
