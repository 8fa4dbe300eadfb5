"""A claim about the drift g(x) − f(x) as a network and a property, for any verifier of neural networks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal
from typing import BinaryIO

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from secateur.certify.certificate import Certificate
from secateur.errors import InputError
from secateur.files import write_atomically
from secateur.formats.onnx.export import exported
from secateur.formats.onnx.read import require_packages
from secateur.graph.export import as_module
from secateur.graph.fitness import check_fit
from secateur.graph.graph import copied


def write_vnnlib(
    path: str | os.PathLike[str],
    original: nn.Module,
    pruned: nn.Module,
    example: tuple[Tensor, ...],
    lower: Tensor,
    upper: Tensor,
    drift_lower: Tensor,
    drift_upper: Tensor,
) -> None:
    """Write `<path>.onnx`, the network x ↦ g(x) − f(x) in float32, and `<path>.vnnlib`, the claim's negation.

    The claim: for every x between `lower` and `upper`, the drift is between `drift_lower` and `drift_upper`
    (all of the shape of one sample). The property, in VNN-LIB 1.0 (https://www.vnnlib.org), asks for an x in
    the box at which some output reaches or passes a bound, so a verifier's `unsat` proves the claim. Numbers
    are written exactly. Networks of one input and one output; `example` gives their shapes. Needs `onnx` and
    `onnxscript` (the extra `onnx`).
    """
    require_packages("onnx", "onnxscript")
    check_fit(original)
    check_fit(pruned)
    if len(example) != 1:
        raise InputError(f"VNN-LIB 1.0 describes networks of one input, this one has {len(example)}")
    network = Drift(*(copied(model).to("cpu", torch.float32) for model in (original, pruned)))
    sample = example[0][:1].detach().to("cpu", torch.float32)
    with torch.no_grad():
        drift = network(sample)
    box = (_flat("lower", lower, sample), _flat("upper", upper, sample))
    claim = (_flat("drift_lower", drift_lower, drift), _flat("drift_upper", drift_upper, drift))
    model = exported(network, (sample,), ["x"], ["drift"]).SerializeToString()
    text = "\n".join(_lines(box, claim)) + "\n"
    _write(f"{os.fspath(path)}.onnx", model)
    _write(f"{os.fspath(path)}.vnnlib", text.encode())


def write_claim(
    path: str | os.PathLike[str],
    original: nn.Module | ExportedProgram,
    pruned: nn.Module | ExportedProgram,
    example: tuple[Tensor, ...],
    certificate: Certificate,
    inputs: Tensor | None = None,
) -> None:
    """`write_vnnlib` for what a certificate says about the whole box, or about the ball round its only input.

    Raises `InputError` where the certificate is about more than one.
    """
    if len(certificate.lower) != 1:
        raise InputError(
            f"VNN-LIB holds one claim, the certificate makes {len(certificate.lower)}: certify one input, or "
            "the box"
        )
    sample = example[0][0]
    low, high = (
        torch.as_tensor(end, dtype=torch.float64).expand(sample.shape)
        for end in certificate.input_set.input_bounds
    )
    eps = certificate.input_set.eps
    if eps is not None and inputs is not None:
        centre = inputs[0].double()
        low, high = torch.maximum(centre - eps, low), torch.minimum(centre + eps, high)
    first, second = map(as_module, (original, pruned))
    with torch.no_grad():
        shape = first(example[0][:1].float()).shape
    claim = (
        torch.tensor(ends, dtype=torch.float64).reshape(shape)
        for ends in (certificate.lower, certificate.upper)
    )
    write_vnnlib(path, first, second, example, low, high, *claim)


class Drift(nn.Module):
    """x ↦ g(x) − f(x)."""

    def __init__(self, original: nn.Module, pruned: nn.Module) -> None:
        super().__init__()
        self.original, self.pruned = original, pruned

    def forward(self, x: Tensor) -> Tensor:
        f, g = self.original(x), self.pruned(x)
        if not isinstance(f, Tensor) or not isinstance(g, Tensor) or f.shape != g.shape:
            raise InputError(
                f"both networks must give one tensor of the same shape, they give {_described(f)} and "
                f"{_described(g)}"
            )
        return g - f


def _described(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _flat(name: str, bound: Tensor, like: Tensor) -> Tensor:
    """A bound in float64, one number for each feature of the batch of one `like`."""
    if bound.shape not in (like.shape, like.shape[1:]):
        raise InputError(
            f"{name} has shape {tuple(bound.shape)}; give one of one sample, {tuple(like.shape[1:])}"
        )
    if not bool(torch.isfinite(bound).all()):
        raise InputError(f"{name} is not finite everywhere; VNN-LIB has no way to write that")
    return bound.detach().to("cpu", torch.float64).flatten()


def _lines(box: tuple[Tensor, Tensor], claim: tuple[Tensor, Tensor]) -> Iterator[str]:
    yield "; X: the inputs; Y: the drift of the pruned network from the original"
    yield "; unsat: no input of the box takes any output to a bound of the drift"
    for name, ends in (("X", box), ("Y", claim)):
        yield from (f"(declare-const {name}_{i} Real)" for i in range(len(ends[0])))
    for i, (low, high) in enumerate(zip(*map(_decimals, box), strict=True)):
        yield f"(assert (>= X_{i} {low}))"
        yield f"(assert (<= X_{i} {high}))"
    yield "(assert (or"
    for i, (low, high) in enumerate(zip(*map(_decimals, claim), strict=True)):
        yield f"  (and (<= Y_{i} {low}))"
        yield f"  (and (>= Y_{i} {high}))"
    yield "))"


def _decimals(values: Tensor) -> list[str]:
    """Every digit of each number, without an exponent, which the format's grammar does not know.

    Signs are as verifiers read them, −x in one word.
    """
    written = [f"{Decimal(value):f}" for value in values.tolist()]
    return [text if "." in text else f"{text}.0" for text in written]


def _write(path: str, content: bytes) -> None:
    def writer(file: BinaryIO) -> None:
        file.write(content)

    write_atomically(path, writer)
