"""Tutorial: prove how far pruning can move the outputs of a network, and which decisions stand.

Run it with `python examples/tutorial_certify.py`; it takes a few seconds and needs no files.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur

FEATURES, CLASSES = 6, 4


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (count, 6) in [0, 1] round one centre for each class, and their class numbers."""
    centres = 0.2 + 0.6 * torch.rand(CLASSES, FEATURES, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    return (centres[labels] + 0.1 * torch.randn(count, FEATURES, generator=generator)).clamp(0, 1), labels


def trained() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(FEATURES, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, CLASSES)
    )
    points, labels = clusters(500, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(points), labels).backward()
        optimizer.step()
    return model.eval()


def main() -> None:
    model = trained()
    points, labels = clusters(50, seed=2)
    small = secateur.prune(model, points[:1], remove=0.5, input_bounds=(0.0, 1.0)).model

    print("1. A search finds moves; a certificate bounds them")
    print("   eps   found at least   proved at most   same decision: proved / not refuted")
    for eps in (0.0, 0.01, 0.03):
        certificate = secateur.certify(model, small, inputs=points, eps=eps, labels=labels)
        proved = torch.maximum(-torch.tensor(certificate.lower), torch.tensor(certificate.upper)).max()
        found, agreement = certificate.found, certificate.agreement
        assert found is not None and agreement is not None
        moves = f"{eps:6.2f}   {max(found):14.3f}   {proved:14.3f}"
        print(f"{moves}   {agreement.certified:.0%} / {agreement.empirical:.0%}")

    print("\n2. A certificate belongs to two models and their inputs")
    secateur.check_certificate(certificate, model, small, inputs=points, labels=labels)
    print("the same models: accepted")
    other = copy.deepcopy(small)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    try:
        secateur.check_certificate(certificate, model, other, inputs=points, labels=labels)
    except secateur.VerificationError as error:
        print(f"another model: refused\n  {error}")

    print("\n3. Prune within a proved budget")
    guard = {"certified_drift": 0.5, "eps": 0.01}
    result = secateur.prune(
        model, points[:1], remove=0.9, input_bounds=(0.0, 1.0), calibration=points, guard=guard, step=0.25
    )
    print(f"units: {result.before.units} -> {result.after.units}")
    print(result.stopped or "the budget held until the end")


if __name__ == "__main__":
    main()
