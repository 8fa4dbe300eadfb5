"""Small random networks for soundness.py: a family of ops in the body, and a head."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.decisions import Head

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU,
    nn.Tanh,
    nn.Sigmoid,
    nn.GELU,
    nn.SiLU,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.LeakyReLU,
    nn.PReLU,
    nn.Softplus,
    nn.Mish,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.ReLU6,
    nn.LogSigmoid,
    nn.Softsign,
    nn.Softshrink,
    lambda: nn.GELU(approximate="tanh"),
)
FEATURES = 12


class Network(nn.Module):
    """Scores, and a head on them."""

    def __init__(self, body: nn.Module, width: int, columns: int, head: nn.Module) -> None:
        super().__init__()
        self.body, self.last, self.head = body, nn.Linear(width, columns), head

    def scores(self, *x: Tensor) -> Tensor:
        return self.last(self.body(*x))  # type: ignore[no-any-return]

    def forward(self, *x: Tensor) -> Tensor:
        return self.head(self.scores(*x))  # type: ignore[no-any-return]


class Body(nn.Module):
    """Layers and what is done with them."""

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.steps = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, *x: Tensor) -> Tensor:
        return self.steps(self, *x)


@dataclass(frozen=True)
class HeadOf:
    name: Head
    columns: int
    make: Callable[[], nn.Module]


HEADS: dict[str, HeadOf] = {
    "logits": HeadOf("logits", 3, nn.Identity),
    "softmax": HeadOf("probabilities", 3, lambda: nn.Softmax(1)),
    "binary logit": HeadOf("binary_logit", 1, nn.Identity),
    "sigmoids": HeadOf("multi_label", 3, nn.Sigmoid),
    "regression": HeadOf("none", 2, nn.Identity),
    "sigmoid": HeadOf("binary_probability", 1, nn.Sigmoid),
    "log softmax": HeadOf("logits", 3, lambda: nn.LogSoftmax(1)),
    "labels": HeadOf("multi_label_logits", 3, nn.Identity),
}


def _act() -> nn.Module:
    return random.choice(ACTIVATIONS)()


def _norm(norm: nn.Module) -> nn.Module:
    """With parameters and statistics that are not those of a fresh one."""
    for value in (*norm.parameters(), *norm.buffers()):
        if value.is_floating_point():
            value.data.copy_(torch.rand_like(value) + 0.4)
    return norm


def _dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), _act(), nn.Linear(16, FEATURES), _act())


def _conv() -> nn.Module:
    pool = random.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3), nn.MaxPool2d(3, 1, 1)])
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1),
        _norm(nn.BatchNorm2d(6)),
        _act(),
        pool,
        nn.Conv2d(6, 5, 3, groups=1),
        _act(),
        nn.Flatten(),
        nn.LazyLinear(FEATURES),
        _act(),
    )


def _depthwise() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 6, 1),
        nn.ReLU6(),
        nn.Conv2d(6, 6, 3, groups=6, padding=1),
        _act(),
        nn.Conv2d(6, FEATURES, 1),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
    )


def _conv1d() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 3),
        _act(),
        nn.ConvTranspose1d(8, 4, 2, 2),
        _act(),
        nn.MaxPool1d(2),
        nn.Flatten(),
        nn.LazyLinear(FEATURES),
        nn.ReLU(),
    )


def _residual() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.act(m.bn(m.stem(x)))
        return F.adaptive_avg_pool2d(m.act(y + m.second(m.act(m.first(y)))), 1).flatten(1)

    return Body(
        forward,
        stem=nn.Conv2d(2, FEATURES, 3),
        bn=_norm(nn.BatchNorm2d(FEATURES)),
        act=nn.ReLU(),
        first=nn.Conv2d(FEATURES, 8, 3, padding=1),
        second=nn.Conv2d(8, FEATURES, 3, padding=1),
    )


def _norms() -> nn.Module:
    norm = random.choice([nn.LayerNorm(16), nn.RMSNorm(16, eps=1e-3), nn.GroupNorm(4, 16)])
    return nn.Sequential(nn.Linear(6, 16), _norm(norm), nn.Linear(16, 16), _act(), nn.Linear(16, FEATURES))


def _attention() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.embed(x)
        y = y + m.attend(y, y, y, need_weights=False)[0]
        return m.down(m.act(m.up(y))).mean(1)

    return Body(
        forward,
        embed=nn.Linear(4, 8),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
        up=nn.Linear(8, 12),
        act=nn.GELU(),
        down=nn.Linear(12, FEATURES),
    )


def _transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
    return Body(
        lambda m, x: m.out(m.layer(m.embed(x)).amax(1)),
        embed=nn.Linear(4, 8),
        layer=layer,
        out=nn.Linear(8, FEATURES),
    )


def _gates() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = m.first(x).chunk(2, 1)
        return m.out(F.glu(m.second(a * torch.sigmoid(b)), 1) / (1 + F.softplus(m.third(x))))

    return Body(
        forward,
        first=nn.Linear(6, 16),
        second=nn.Linear(8, 12),
        third=nn.Linear(6, 6),
        out=nn.Linear(6, FEATURES),
    )


def _moves() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        a, b = m.first(x), m.second(x)
        both = torch.cat([a, -b.flip(1)], 1).relu()
        return m.out(
            torch.stack([both, both * 0.5 - 0.1], 1).permute(0, 2, 1).reshape(len(x), -1).clamp(-0.4, 0.9)
        )

    return Body(forward, first=nn.Linear(6, 6), second=nn.Linear(6, 6), out=nn.Linear(24, FEATURES))


def _extremes() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        y = m.first(x).unflatten(1, (4, 4))
        parts = [
            y.amax(1),
            y.amin(2),
            y.logsumexp(1),
            y.norm(dim=2),
            F.softmax(y, 1).sum(2),
            torch.maximum(y, y.mT)[:, 0],
        ]
        return m.out(torch.cat(parts, 1))

    return Body(forward, first=nn.Linear(6, 16), out=nn.Linear(24, FEATURES))


def _products() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k = m.first(x), m.second(x)
        scores = torch.einsum("btc,bsc->bts", q, k) * 0.3
        return m.out(torch.bmm(F.softmax(scores, -1), torch.tanh(k)).sum(1))

    return Body(forward, first=nn.Linear(4, 8), second=nn.Linear(4, 8), out=nn.Linear(8, FEATURES))


def _tokens() -> nn.Module:
    return Body(
        lambda m, x, ids: m.out(torch.relu(m.first(m.table(ids).mean(1) + m.place(x)))),
        table=nn.Embedding(9, 8),
        place=nn.Linear(6, 8),
        first=nn.Linear(8, 16),
        out=nn.Linear(16, FEATURES),
    )


def _recurrent() -> nn.Module:
    cell = random.choice([nn.LSTM, nn.GRU])(4, 8, batch_first=True)
    return Body(
        lambda m, x: m.out(torch.relu(m.mid(m.cell(x)[0][:, -1]))),
        cell=cell,
        mid=nn.Linear(8, 12),
        out=nn.Linear(12, FEATURES),
    )


# name → body, and the shape of an input
FAMILIES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "dense": (_dense, (6,)),
    "convolution, batch norm, pooling": (_conv, (2, 8, 8)),
    "depthwise": (_depthwise, (2, 6, 6)),
    "1d, transposed": (_conv1d, (3, 10)),
    "residual": (_residual, (2, 8, 8)),
    "norms": (_norms, (6,)),
    "attention": (_attention, (5, 4)),
    "transformer": (_transformer, (5, 4)),
    "gates, quotients": (_gates, (6,)),
    "moves, limits": (_moves, (6,)),
    "maxima, minima, lengths": (_extremes, (6,)),
    "products of activations": (_products, (5, 4)),
    "tokens": (_tokens, (6,)),
    "recurrent": (_recurrent, (5, 4)),
}


def network(family: str, head: str) -> tuple[Network, tuple[Tensor, ...]]:
    """A network in eval mode and two inputs in [−1, 1]; random numbers are those of torch's seed."""
    random.seed(torch.initial_seed())
    make, shape = FAMILIES[family]
    body, about = make(), HEADS[head]
    x: tuple[Tensor, ...] = (torch.rand(2, *shape) * 2 - 1,)
    if family == "tokens":
        x = (*x, torch.randint(0, 9, (2, 4)))
    model = Network(body.eval(), FEATURES, about.columns, about.make()).eval()
    with torch.no_grad():
        model(*x)  # lazy layers take their sizes
    return model, x
