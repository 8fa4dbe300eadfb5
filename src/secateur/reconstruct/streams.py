"""Turn a stream so that the coordinates that matter least come last, and cut them.

A norm's statistics do not change where its input is rotated (for layer norm: about the axis of equal
numbers, along which it sees nothing). So one rotation Q of everything that writes the stream, undone in
everything that reads it, changes nothing, once the weights of the norms stand in the layers that read them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from secateur.errors import SecateurError
from secateur.graph.coupling import Coupling
from secateur.graph.footprint import batch_size, footprint
from secateur.graph.graph import Graph
from secateur.graph.interpret import batches, for_passes, precision_of, run
from secateur.graph.sources import described
from secateur.graph.stream import Stream, StreamNorm
from secateur.graph.workers import in_order
from secateur.types import Group, Slot

_SAMPLES = 512  # that the rotation is found on
_CHECKED = 4  # that it is checked on
_TOLERANCE = 1e-5  # of the largest output, in float64
_SMALL = 1e-6  # weights of a norm below this share of the largest are taken for 0

Tensors = Mapping[str, Tensor]


def rotated(
    graph: Graph, coupling: Coupling, tensors: Tensors, inputs: Sequence[Tensor]
) -> dict[str, Tensor]:
    """New values of the tensors that write, norm or read a stream: the same function, its streams rotated.

    Cost: one forward pass of up to 512 samples, and an eigendecomposition of each width. Raises
    `SecateurError` where the rotated network does not compute what the original does.

    Args:
        tensors: Those of the graph, float64 where floating.
        inputs: Samples.
    """
    found = dict[str, Tensor]()
    for stream in coupling.streams:
        group = _group(coupling, stream)
        rotation = _rotation(stream, _moment(graph, stream, tensors, inputs))
        found |= _rotated(stream, group, tensors, rotation)
    if found:
        _check(graph, coupling, tensors, found, [x[:_CHECKED] for x in inputs])
    return found


def written(
    stream: Stream, group: Group, tensors: Tensors, alive: Tensor, names: Collection[str]
) -> dict[str, Tensor]:
    """Of the tensors of these names that write the stream, new values that leave out the coordinates gone.

    What layer norms read keeps a mean of 0 over the coordinates that stay.
    """
    if bool(alive.all()):
        return {}
    found = dict[str, Tensor]()
    for slot in _writers(stream, group):
        if slot.tensor in names:
            old = found.get(slot.tensor, tensors[slot.tensor])
            rows = _rows(old, slot)
            if stream.centred:
                rows = rows - rows[alive].mean(0, keepdim=True)
            rows[~alive] = 0.0
            found[slot.tensor] = _with_rows(old, slot, rows)
    return found


def _group(coupling: Coupling, stream: Stream) -> Group:
    return next(group for group in coupling.groups if group.name == stream.group)


def _writers(stream: Stream, group: Group) -> list[Slot]:
    """The slots of what makes the stream: layers, tables, and parameters that are added to it."""
    norms = {name for norm in stream.norms for name in (norm.weight, norm.bias)}
    return [slot for slot in group.slots if slot.role != "consumer" and slot.tensor not in norms]


def _rows(tensor: Tensor, slot: Slot) -> Tensor:
    """The parts of a tensor that belong to each unit; shape: (units, indices, …)."""
    return tensor.movedim(slot.axis, 0)[slot.positions]


def _with_rows(tensor: Tensor, slot: Slot, rows: Tensor) -> Tensor:
    found = tensor.movedim(slot.axis, 0).clone()
    found[slot.positions] = rows
    return found.movedim(0, slot.axis).contiguous()


# --- the rotation -------------------------------------------------------------------------------------------


def _moment(graph: Graph, stream: Stream, tensors: Tensors, inputs: Sequence[Tensor]) -> Tensor:
    """The mean over the norms of E[n nᵀ] of what each gives before its weight; shape: (D, D), float64."""
    few = [x[:_SAMPLES] for x in inputs]
    wanted = list(dict.fromkeys(norm.source for norm in stream.norms))
    dtype = precision_of(few)
    used = for_passes(graph, tensors, few, dtype)

    def one(part: tuple[Tensor, ...]) -> Tensor:
        values = dict(zip(wanted, run(graph, part, used, dtype=dtype, wanted=wanted), strict=True))
        rows = [_normed(norm, values[norm.source]) for norm in stream.norms]
        return torch.stack([(x.T @ x / len(x)) for x in rows]).mean(0) * len(part[0])

    size = batch_size(footprint(graph).total, few)
    total = sum(in_order(one, batches(few, size)), torch.zeros(()))
    return (total / len(few[0])).cpu()


def _normed(norm: StreamNorm, value: Tensor) -> Tensor:
    """What a norm gives, without its weight and bias; shape: (samples · tokens, D)."""
    x = value.reshape(-1, value.shape[-1]).double()
    x = x - x.mean(1, keepdim=True) if norm.centred else x
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + norm.eps)


def _rotation(stream: Stream, moment: Tensor) -> Tensor:
    """Q, whose last rows are the directions along which least varies; shape: (D, D), Q Qᵀ = I.

    For layer norm Q leaves the vector of ones where it is, and any first d coordinates hold the d − 1
    directions that matter most, whatever d is.
    """
    if not stream.centred:
        return _principal(moment)
    basis = _contrasts(len(moment))
    return basis.T @ _principal(basis @ moment @ basis.T) @ basis + 1.0 / len(moment)


def _principal(moment: Tensor) -> Tensor:
    """The eigenvectors, as rows, of the largest eigenvalue first."""
    vectors: Tensor = torch.linalg.eigh(moment)[1]
    return vectors.flip(1).T


def _contrasts(size: int) -> Tensor:
    """Orthonormal rows that sum to 0, of which row k has its numbers in the first k + 2 places.

    Helmert's matrix without its first row; shape: (size − 1, size).
    """
    k = torch.arange(1, size, dtype=torch.float64)
    rows = torch.ones(size - 1, size, dtype=torch.float64).tril()
    rows[torch.arange(size - 1), torch.arange(1, size)] = -k
    return rows / (k * (k + 1)).sqrt()[:, None]


def _rotated(stream: Stream, group: Group, tensors: Tensors, rotation: Tensor) -> dict[str, Tensor]:
    found = dict[str, Tensor]()

    def change(slot: Slot, scale: Tensor | None = None) -> None:
        old = found.get(slot.tensor, tensors[slot.tensor])
        rows = _rows(old, slot)
        rows = rows if scale is None else rows * scale.reshape(-1, *[1] * (rows.ndim - 1))
        found[slot.tensor] = _with_rows(old, slot, torch.tensordot(rotation, rows, 1))

    for slot in _writers(stream, group):
        change(slot)
    slots = {(slot.tensor, slot.axis): slot for slot in group.slots}
    scales = dict[tuple[str, int], Tensor]()
    for norm in stream.norms:
        weight = _rows(tensors[norm.weight], slots[norm.weight, 0])[:, 0]
        scales |= dict.fromkeys(norm.readers, weight)
        found[norm.weight] = torch.ones_like(tensors[norm.weight])
        if norm.bias is not None:
            change(slots[norm.bias, 0], _inverse(norm, weight, tensors[norm.bias]))
    for slot in group.having("consumer"):
        change(slot, scales.get((slot.tensor, slot.axis)))
    return found


def _inverse(norm: StreamNorm, weight: Tensor, bias: Tensor) -> Tensor:
    """1 / weight, by which a bias is divided since its readers are multiplied by the weight."""
    tiny = weight.abs() <= _SMALL * weight.abs().amax()
    if bool((tiny & (bias != 0)).any()):
        raise SecateurError(
            f"streams: {int(tiny.sum())} of the {len(weight)} weights of {norm.weight} are 0 beside a bias, "
            f"at {described(norm.node)}, so that the layers behind cannot take them over; prune without "
            "streams"
        )
    return torch.where(tiny, 0.0, 1.0 / torch.where(tiny, 1.0, weight))


def _check(
    graph: Graph, coupling: Coupling, before: Tensors, after: Tensors, inputs: Sequence[Tensor]
) -> None:
    """Raise `SecateurError` unless the rotated network computes what the original does."""
    inputs = [x.double() if x.is_floating_point() else x for x in inputs]
    wanted = run(graph, inputs, before, dtype=torch.float64)
    found = run(graph, inputs, {**before, **after}, dtype=torch.float64)
    for index, (a, b) in enumerate(zip(wanted, found, strict=True)):
        error, allowed = float((a - b).abs().max()), _TOLERANCE * max(1e-30, float(a.abs().max()))
        if not error <= allowed:
            names = ", ".join(stream.group for stream in coupling.streams)
            raise SecateurError(
                f"streams: output {index} of the network with its stream ({names}) rotated differs by "
                f"{error:.3g} from the original's, more than {allowed:.3g}; nothing was cut. Prune without "
                "streams, and please report the model"
            )
