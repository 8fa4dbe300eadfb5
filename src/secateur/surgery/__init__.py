"""Make the smaller model: the same class where its `forward` can follow, else the rewritten graph.

Nothing is decided here. The input is full-size weights in which removed units have no effect any more, and
the units that stay; the output is checked to equal the masked original before it is handed out.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from secateur.errors import SecateurWarning, VerificationError
from secateur.graph.coupling import Coupling
from secateur.graph.graph import Graph, resized
from secateur.graph.imported import Imported
from secateur.graph.interpret import run
from secateur.graph.structured import flat_tensors
from secateur.surgery.constants import check_constants
from secateur.surgery.rewrite import rewritten
from secateur.surgery.same_class import same_class, set_tensor
from secateur.surgery.sizes import Alive, shrunk_tensors, stored_tensors

_TOLERANCE = 1e-8  # between the outputs of the masked original and the shrunk graph, both in float64
_MAGNIFICATION = 64  # rounding of a whole network, in changes of the last bit of every weight


def shrink(
    model: nn.Module | ExportedProgram | None,
    graph: Graph,
    coupling: Coupling,
    weights: Mapping[str, Tensor],
    alive: Alive,
) -> nn.Module:
    """A new, physically smaller model; `model` and `graph` are left as they are.

    `weights`: float64, full size, by name, consumers of removed units zeroed. An exported program, or None,
    gives an `fx.GraphModule`; so does a class whose `forward` has sizes baked in. Raises `VerificationError`
    where the result does not equal the masked original.
    """
    precise = shrunk_tensors(graph, coupling, weights, alive)
    module = rewritten(graph, coupling, alive)
    _verify(graph, module, weights, precise)
    # one after the other, since two copies of all of a large model may be more than memory holds
    small = {name: precise.pop(name).to(graph.tensors[name].dtype) for name in list(precise)}
    for name, tensor in small.items():
        set_tensor(module, (name,), tensor)
    check_constants(module, graph.constants)
    stored = stored_tensors(graph, coupling, small, alive)
    if isinstance(model, Shrinks):
        as_stored = replace(graph, tensors=graph.as_stored(graph.tensors))
        shrunk = model.shrunk(as_stored, coupling, stored, alive)
        return _checked(model.with_graph(module) if shrunk is None else shrunk, module, graph)
    own = same_class(model, graph, coupling, stored, alive) if isinstance(model, nn.Module) else None
    return own if own is not None and _agree(own, module, graph) else module


class Shrinks(Imported):
    """An imported model that knows its own smaller form."""

    @abstractmethod
    def shrunk(
        self, graph: Graph, coupling: Coupling, small: Mapping[str, Tensor], alive: Alive
    ) -> nn.Module | None:
        """With the tensors of `small`, by their names in `graph`; None where it cannot say their sizes."""

    def with_graph(self, module: fx.GraphModule) -> nn.Module:
        """What stands for the smaller model where `shrunk` gives None: its graph."""
        return module


def _checked(own: nn.Module, module: fx.GraphModule, graph: Graph) -> nn.Module:
    if not _agree(own, module, graph):
        raise VerificationError(
            f"the smaller {type(own).__name__} does not compute what the shrunk graph does. This is a fault "
            "in secateur; please report it"
        )
    return own


def _random_inputs(graph: Graph, dtype: torch.dtype | None) -> list[Tensor]:
    """Up to 32 samples: random numbers over the range of the example, or the example's own integers."""
    generator = torch.Generator().manual_seed(0)
    samples = max(2, min(32, 2**20 // max(x[0].numel() for x in graph.example)))

    def like(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        low, high = float(x.min()), float(x.max())
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        return (low + ((high - low) or 1.0) * noise).to(x.device, dtype or x.dtype)

    return [like(x) for x in resized(graph, samples)]


def _verify(
    graph: Graph, module: fx.GraphModule, masked: Mapping[str, Tensor], small: Mapping[str, Tensor]
) -> None:
    """In float64, the shrunk graph must equal the masked original to rounding."""
    inputs = _random_inputs(graph, torch.float64)
    expected = run(graph, inputs, masked, dtype=torch.float64)
    if not any(bool(torch.isfinite(out).any()) for out in expected):
        warnings.warn(
            "the smaller model could not be compared with the original: the model's outputs are not finite "
            "on random numbers from the range of the example inputs; give example_inputs of the legal range",
            SecateurWarning,
            stacklevel=2,
        )
    shrunk_graph = replace(graph, module=module, tensors=dict(small), aliases={})
    try:
        found = run(shrunk_graph, inputs, small, dtype=torch.float64)
    except RuntimeError as error:
        raise VerificationError(
            f"the shrunk graph does not run: {error}. This is a fault in secateur; please report it"
        ) from error
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        distance, largest = _distance(a, b)
        allowed = _TOLERANCE * max(1.0, largest)
        if not (
            distance <= allowed or distance <= allowed + _magnified_rounding(graph, inputs, masked, index, a)
        ):
            raise VerificationError(
                f"output {index} of the shrunk model, shape {tuple(b.shape)}, differs by {distance:.3g} "
                f"from the masked original, shape {tuple(a.shape)}. This is a fault in secateur; please "
                "report it"
            )


def _magnified_rounding(
    graph: Graph, inputs: Sequence[Tensor], masked: Mapping[str, Tensor], index: int, output: Tensor
) -> float:
    """How far rounding can move `output`: a multiple of the effect of the last bit of every weight.

    A model with very large values before a softmax moves by much more than the rounding of the softmax
    itself.
    """
    generator = torch.Generator().manual_seed(0)

    def nudged(x: Tensor) -> Tensor:
        sign = torch.randint(0, 2, x.shape, generator=generator, dtype=torch.float64) * 2 - 1
        return x.double() * (1 + torch.finfo(torch.float64).eps * sign.to(x.device))

    moved = {name: nudged(x) if x.is_floating_point() else x for name, x in masked.items()}
    return _MAGNIFICATION * _distance(output, run(graph, inputs, moved, dtype=torch.float64)[index])[0]


def _distance(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The largest difference and the largest value of `a`; NaN and infinity are equal to their like alone."""
    if a.shape != b.shape or not a.numel():
        return float(a.shape != b.shape), 0.0
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return float("inf"), 0.0
    a, b = (torch.where(finite, x.double(), 0.0) for x in (a, b))
    return float((a - b).abs().max()), float(a.abs().max())


def _agree(model: nn.Module, module: fx.GraphModule, graph: Graph) -> bool:
    """Whether the shrunk class computes what the shrunk graph does, in the model's own precision."""
    inputs = _random_inputs(graph, None)
    try:
        with torch.no_grad():
            mine, reference = _flat_call(model, graph, inputs), _flat_call(module, graph, inputs)
    except Exception:  # sizes baked into forward fail in as many ways as there are models
        return False
    tolerance = (
        1e-4
        if all(x.dtype in (torch.float32, torch.float64) for x in reference if x.is_floating_point())
        else 3e-2
    )
    return len(mine) == len(reference) and all(
        a.shape == b.shape
        and torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance, equal_nan=True)
        for a, b in zip(mine, reference, strict=True)
    )


def _flat_call(model: nn.Module, graph: Graph, inputs: list[Tensor]) -> list[Tensor]:
    """The tensors that the model returns, for copies of the inputs, which it may write to."""
    given = (x.clone() for x in inputs)
    placeholders = [n.name for n in graph.module.graph.nodes if n.op == "placeholder"]
    leaves = [graph.constants[name] if name in graph.constants else next(given) for name in placeholders]
    args, kwargs = pytree.tree_unflatten(leaves, graph.module._in_spec)
    return flat_tensors(model(*args, **kwargs))
