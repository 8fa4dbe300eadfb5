"""A small network trained in a second on made-up data, for tests of what attacks do to real decisions."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@cache
def blobs(features: int = 6, classes: int = 4, inputs: int = 300) -> tuple[nn.Module, Tensor, Tensor]:
    """The network, inputs in [0, 1] (n, features) and labels, most of which it gets right; leave all as they
    are.
    """
    generator = torch.Generator().manual_seed(0)
    centres = 0.2 + 0.6 * torch.rand(classes, features, generator=generator)
    labels = torch.randint(classes, (inputs,), generator=generator)
    x = (centres[labels] + 0.12 * torch.randn(inputs, features, generator=generator)).clamp(0, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(features, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, classes)
        )
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval(), x, labels
