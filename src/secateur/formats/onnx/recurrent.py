"""LSTM, GRU and RNN as torch's own recurrent layers. The file keeps the node and its weights as they are.

Weights are put into torch's layout once, when the model is read: ONNX has the gates in another order, and
both directions in one tensor. Coupling then finds one op that stays whole, as in a network from torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError, UnsupportedOpError
from secateur.formats.gru import RESET_FIRST
from secateur.formats.onnx.host import Host
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.ops import tensor
from secateur.formats.onnx.sources import Sources

# torch's order of gates in ONNX's: iofc → ifco, zrh → rzh
_GATES = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}
_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
_WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
_X, _W, _R, _B, _LENGTHS, _H, _C, _PEEPHOLES = range(8)  # inputs of the ONNX ops
KINDS = frozenset(_GATES)


def with_torch_weights(
    nodes: Sequence[Node], constants: Mapping[str, Tensor], outputs: Sequence[str]
) -> tuple[list[Node], dict[str, Tensor]]:
    """The nodes with torch's weights as inputs (x, lengths, h0, c0, weights…), and these weights by name.

    Initial states of zeros are left out, and with them the nodes that only made them or the weights.
    """
    if not any(node.kind in KINDS for node in nodes):
        return list(nodes), {}
    sources = Sources(nodes, constants)
    made, known = dict[str, Tensor](), dict[tuple[str, ...], tuple[str, ...]]()
    found = [_with_torch_weights(n, sources, made, known) if n.kind in KINDS else n for n in nodes]
    return _read_at_last(nodes, found, outputs), made


def _with_torch_weights(
    node: Node, sources: Sources, made: dict[str, Tensor], known: dict[tuple[str, ...], tuple[str, ...]]
) -> Node:
    given = [*node.inputs, *[""] * (8 - len(node.inputs))]
    _refuse(node, given)
    key = (node.kind, given[_W], given[_R], given[_B])
    if key not in known:
        weights = _torch_weights(node, sources, given)
        known[key] = tuple(sources.free_name(f"{node.name}.{name}") for name in weights)
        made.update(zip(known[key], weights.values(), strict=True))
    states = ["" if not name or sources.is_zero(name) else name for name in given[_H:_PEEPHOLES]]
    lengths = sources.before_spreading(given[_LENGTHS]) if given[_LENGTHS] else ""
    filled = sources.filled_with(lengths)
    if filled is not None:
        lengths = sources.free_name(f"{node.name}.sequence_lens")
        made[lengths] = torch.tensor([int(filled)])
    attributes = node.attributes | {
        "directions": 2 if node.attribute("direction", "forward") == "bidirectional" else 1
    }
    return replace(node, inputs=(given[_X], lengths, *states, *known[key]), attributes=attributes)


def _refuse(node: Node, given: Sequence[str]) -> None:
    """Forms of the layers that torch does not have, by what makes them so."""
    each = _ACTIVATIONS[node.kind]
    told = [
        name.decode() if isinstance(name, bytes) else name
        for name in node.attribute("activations", None) or each
    ]
    usual = all(name.lower() == each[i % len(each)].lower() for i, name in enumerate(told))
    if not usual and not (node.kind == "RNN" and {name.lower() for name in told} == {"relu"}):
        raise UnsupportedOpError(
            f"{node} has the activations {', '.join(told)}; only {', '.join(each)} have a rule"
        )
    if given[_PEEPHOLES]:
        raise UnsupportedOpError(
            f"{node} has peepholes ({given[_PEEPHOLES]!r}), which have no rule; train it without"
        )
    if node.attribute("input_forget", 0):
        raise UnsupportedOpError(
            f"{node} couples its input and forget gates (input_forget=1), which has no rule"
        )
    if node.attribute("clip", 0.0):
        raise UnsupportedOpError(f"{node} clips its gates at {node.attribute('clip')}, which has no rule")


def _torch_weights(node: Node, sources: Sources, given: Sequence[str]) -> dict[str, Tensor]:
    """By torch's name, for one direction after the other."""
    order = _GATES[node.kind]
    pieces = [_constant(node, sources, name) for name in (given[_W], given[_R], given[_B]) if name]
    sizes, found = [tuple(t.shape) for t in pieces], dict[str, Tensor]()
    for direction in range(len(pieces[0])):
        own = [piece[direction] for piece in pieces]
        try:
            own = [*own[:2], *(half for bias in own[2:] for half in bias.chunk(2))]
            own = [torch.cat([w.chunk(len(order))[gate] for gate in order]).contiguous() for w in own]
        except IndexError as error:
            raise InputError(f"{node} has weights of shapes {sizes}, which do not fit each other") from error
        found |= {f"{name}{'_reverse' * direction}": w for name, w in zip(_WEIGHTS, own, strict=False)}
    return found


def _constant(node: Node, sources: Sources, name: str) -> Tensor:
    value = sources.constant(name)
    if value is None:
        raise UnsupportedOpError(
            f"{node}: its weights {name!r} are computed from the input, which has no rule"
        )
    return value


def _read_at_last(nodes: Sequence[Node], found: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """Without the nodes that something read in `nodes`, and nothing does in `found`."""
    before = {name for node in nodes for name in node.inputs} | set(outputs)
    needed, kept = set(outputs), list[Node]()
    for node in reversed(found):
        if not needed.isdisjoint(node.outputs) or before.isdisjoint(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]


# --- the rule -----------------------------------------------------------------------------------------------


def recurrent(
    node: Node, x: Tensor, lengths: Host | None, h: Tensor | None, c: Tensor | None, *weights: Tensor
) -> list[Tensor]:
    """Y, Y_h and, of an LSTM, Y_c."""
    first, directions = bool(node.attribute("layout", 0)), node.attribute("directions")
    time, reverse = (1 if first else 0), node.attribute("direction", "forward") == "reverse"
    _check_lengths(node, lengths, x.shape[time])
    x = x.flip(time) if reverse else x
    states = [
        _state(node, x, state, weights[1].shape[1]) for state in ([h, c] if node.kind == "LSTM" else [h])
    ]
    settings = (len(weights) > 2 * directions, 1, 0.0, False, directions == 2, first)
    run, hx = _layer(node), states if node.kind == "LSTM" else states[0]
    output, *last = run(x, hx, list(weights), *settings)
    output = (output.flip(time) if reverse else output).unflatten(2, (directions, -1))
    return [output, *(s.transpose(0, 1) for s in last)] if first else [output.permute(0, 2, 1, 3), *last]


def _layer(node: Node) -> Callable[..., Any]:
    if node.kind == "RNN":
        told = node.attribute("activations", None) or ["Tanh"]
        return torch.rnn_relu if str(told[0]).lower().strip("b'") == "relu" else torch.rnn_tanh
    if node.kind == "GRU":
        return torch.gru if node.attribute("linear_before_reset", 0) else RESET_FIRST
    return torch.lstm


def _check_lengths(node: Node, lengths: Any, steps: int) -> None:
    if lengths is not None and (isinstance(lengths, Tensor) or any(n != steps for n in lengths.reshape(-1))):
        raise UnsupportedOpError(
            f"{node} is told the length of each sequence (sequence_lens), which has no rule; export it "
            "without"
        )


def _state(node: Node, x: Tensor, state: Any, hidden: int) -> Tensor:
    """(directions, batch, hidden); one that a model of a single sample holds is that of every sample."""
    first = bool(node.attribute("layout", 0))
    shape = node.attribute("directions"), x.shape[0 if first else 1], hidden
    if state is None:
        return torch.zeros(shape, dtype=x.dtype, device=x.device)
    state = tensor(state, x)
    state = state.transpose(0, 1) if first else state
    single = isinstance(state.shape[1], int) and state.shape[1] == 1
    return state.expand(shape) if single and node.batch == 1 else state  # type: ignore[no-any-return]


OPS: dict[str, Callable[..., Any]] = dict.fromkeys(_GATES, recurrent)
SETTINGS: dict[str, set[int]] = {kind: {1} for kind in _GATES}  # the lengths
