"""The families of networks, each a function (recipe, shape of an input, number of outputs) -> nn.Module.

Layers are built by `Kit`, which knows the activation, the norm and the dropout of a recipe. What a layer norm
reads cannot shrink; so with layer norms every layer is followed by a residual block whose hidden units can.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recipes import Activation, Norm, Recipe

Shape = tuple[int, ...]

ACTIVATIONS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}
GROUP = 2  # channels of one group of a group norm


class Added(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@dataclass(frozen=True)
class Kit:
    """Makes the layers of one recipe. `axes`: of the space that convolutions run over, 1 or 2."""

    activation: Activation
    norm: Norm
    dropout: float
    axes: int = 2

    @classmethod
    def of(cls, recipe: Recipe, axes: int = 2) -> Kit:
        return cls(recipe.activation, recipe.norm, recipe.dropout, axes)

    def act(self) -> nn.Module:
        return ACTIVATIONS[self.activation]()

    def drop(self) -> list[nn.Module]:
        return [nn.Dropout(self.dropout)] if self.dropout else []

    def normed(self, channels: int) -> list[nn.Module]:
        """The norm of `channels` maps; none where the recipe has none."""
        if self.norm == "batch":
            return [nn.BatchNorm2d(channels) if self.axes == 2 else nn.BatchNorm1d(channels)]
        if self.norm == "none":
            return []
        return [nn.GroupNorm(channels // GROUP if self.norm == "group" else 1, channels)]

    def conv(self, i: int, o: int, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        """A convolution that keeps the size but for its stride, and its norm."""
        layer = nn.Conv2d if self.axes == 2 else nn.Conv1d
        bias = self.norm == "none"
        return [layer(i, o, size, stride, size // 2, groups=groups, bias=bias), *self.normed(o)]

    def conv_act(self, i: int, o: int, size: int = 3, stride: int = 1, groups: int = 1) -> list[nn.Module]:
        """A convolution, its norm, the activation; with layer norm, a convolution and a residual block."""
        if self.norm != "layer":
            return [*self.conv(i, o, size, stride, groups), self.act()]
        layer = nn.Conv2d if self.axes == 2 else nn.Conv1d
        hidden = [layer(o, 2 * o, 1), self.act(), layer(2 * o, o, 1)]
        return [
            layer(i, o, size, stride, size // 2, groups=groups),
            Added(nn.Sequential(*self.normed(o), *hidden)),
        ]

    def linear_act(self, i: int, o: int) -> list[nn.Module]:
        """A linear layer, its norm, the activation; with layer norm, a linear layer and a residual block."""
        if self.norm == "layer":
            hidden = (nn.Linear(o, 2 * o), self.act(), nn.Linear(2 * o, o))
            return [nn.Linear(i, o), Added(nn.Sequential(nn.LayerNorm(o), *hidden))]
        return [nn.Linear(i, o), *([nn.BatchNorm1d(o)] if self.norm == "batch" else []), self.act()]

    def pooled(self, channels: int, outputs: int) -> list[nn.Module]:
        """The mean over the maps, then one linear layer."""
        pool = nn.AdaptiveAvgPool2d(1) if self.axes == 2 else nn.AdaptiveAvgPool1d(1)
        return [pool, nn.Flatten(), *self.drop(), nn.Linear(channels, outputs)]


def dense(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """Linear layers of `widths`."""
    kit = Kit.of(recipe)
    inputs = torch.Size(shape).numel()
    layers: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    for i, o in pairwise((inputs, *recipe.widths)):
        layers += [*kit.linear_act(i, o), *kit.drop()]
    return nn.Sequential(*layers, nn.Linear(recipe.widths[-1], outputs))


def cnn(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """Convolutions of `widths`, each but the first with stride 2, then a hidden linear layer of 64 units.

    Pictures of 32 × 32 are also halved by the first.
    """
    kit = Kit.of(recipe)
    layers: list[nn.Module] = []
    size = shape[-1]
    for n, (i, o) in enumerate(pairwise((shape[0], *recipe.widths))):
        stride = 2 if n or size == 32 else 1
        layers += kit.conv_act(i, o, stride=stride)
        size = -(-size // stride) if n or stride == 2 else size
        if n == 1:
            layers += kit.conv_act(o, o)
    hidden = [nn.Linear(recipe.widths[-1] * size * size, 64), kit.act(), *kit.drop()]
    return nn.Sequential(*layers, nn.Flatten(), *hidden, nn.Linear(64, outputs))


def vgg(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """One, then two and two convolutions of `widths`, each stage ending in max-pooling, and the mean."""
    kit = Kit.of(recipe)
    a, b, c = recipe.widths
    stages = [
        [*kit.conv_act(shape[0], a), nn.MaxPool2d(2)],
        [*kit.conv_act(a, b), *kit.conv_act(b, b), nn.MaxPool2d(2)],
        [*kit.conv_act(b, c), *kit.conv_act(c, c), nn.MaxPool2d(2)],
        [*kit.conv_act(c, c)],
    ]
    return nn.Sequential(*(layer for stage in stages for layer in stage), *kit.pooled(c, outputs))


class ZeroPadded(nn.Module):
    """The shortcut without weights: every `stride`-th point, and new channels of zeros (He et al. 2016,
    option A).
    """

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra, self.stride = extra, stride

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


class Residual(nn.Module):
    def __init__(self, body: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut, self.act = body, shortcut, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def resnet(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """A stem that halves the picture, then a basic block for each of `widths`, with stride 2 but for the
    first, and one more of the last width. Shortcuts that change the size: option A or B of He et al. 2016.
    """
    kit = Kit.of(recipe)
    layers = kit.conv_act(shape[0], recipe.widths[0], stride=2)
    widths = (recipe.widths[0], *recipe.widths, recipe.widths[-1])
    for i, o in pairwise(widths):
        stride = 1 if i == o else 2
        body = nn.Sequential(*kit.conv_act(i, o, stride=stride), *kit.conv(o, o))
        shortcut: nn.Module = nn.Identity()
        if i != o and recipe.family == "resnet-a":
            shortcut = ZeroPadded(o - i, stride)
        elif i != o:
            shortcut = nn.Sequential(*kit.conv(i, o, size=1, stride=stride))
        layers.append(Residual(body, shortcut, kit.act()))
    return nn.Sequential(*layers, *kit.pooled(recipe.widths[-1], outputs))


class Concatenated(nn.Module):
    """x and what its body makes of it, side by side."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """`widths`: channels of the stem, growth, layers of each of the two blocks. Norm and activation stand
    before the convolutions; a transition halves channels and size.
    """
    kit = Kit.of(recipe)
    channels, growth, depth = recipe.widths
    layers: list[nn.Module] = [nn.Conv2d(shape[0], channels, 3, 2, 1)]
    for block in range(2):
        for _ in range(depth):
            body = [*kit.normed(channels), kit.act(), nn.Conv2d(channels, growth, 3, 1, 1, bias=False)]
            layers.append(Concatenated(nn.Sequential(*body)))
            channels += growth
        if block == 0:
            layers += [*kit.normed(channels), kit.act(), nn.Conv2d(channels, channels // 2, 1, bias=False)]
            layers.append(nn.AvgPool2d(2))
            channels //= 2
    return nn.Sequential(*layers, *kit.normed(channels), kit.act(), *kit.pooled(channels, outputs))


def mobilenet(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """Inverted residuals (MobileNetV2) with expansion 4: two blocks for each of `widths` but the first."""
    kit = Kit.of(recipe)

    def block(i: int, o: int, stride: int) -> nn.Module:
        wide = 4 * i
        body = nn.Sequential(
            *kit.conv_act(i, wide, 1), *kit.conv_act(wide, wide, 3, stride, wide), *kit.conv(wide, o, 1)
        )
        return Added(body) if i == o and stride == 1 else body

    layers = kit.conv_act(shape[0], recipe.widths[0], stride=2)
    for i, o in pairwise(recipe.widths):
        layers += [block(i, o, 2), block(o, o, 1)]
    last = 2 * recipe.widths[-1]
    layers += kit.conv_act(recipe.widths[-1], last, 1)
    return nn.Sequential(*layers, *kit.pooled(last, outputs))


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, dim // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, tokens, dim))


class Tokens(nn.Module):
    """Patches of a picture as tokens, with learned positions."""

    def __init__(self, channels: int, dim: int, size: int, patch: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, patch)
        self.positions = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.patches(x).flatten(2).transpose(1, 2) + self.positions


class MeanOfTokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def vit(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """`widths`: dimension of a token, hidden units of the feed-forward layers, number of blocks. Patches are
    a quarter of the picture wide, heads 16 dimensions; the norm stands before (pre-norm).
    """
    kit = Kit.of(recipe)
    dim, hidden, depth = recipe.widths
    layers: list[nn.Module] = [Tokens(shape[0], dim, shape[-1], shape[-1] // 4)]
    for _ in range(depth):
        layers.append(Added(nn.Sequential(nn.LayerNorm(dim), Attention(dim, dim // 16), *kit.drop())))
        feed = (nn.Linear(dim, hidden), kit.act(), *kit.drop(), nn.Linear(hidden, dim), *kit.drop())
        layers.append(Added(nn.Sequential(nn.LayerNorm(dim), *feed)))
    return nn.Sequential(*layers, nn.LayerNorm(dim), MeanOfTokens(), nn.Linear(dim, outputs))


def series(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """Convolutions over time of `widths`, each followed by max-pooling of two but for the last."""
    kit = Kit.of(recipe, axes=1)
    layers: list[nn.Module] = []
    for n, (i, o) in enumerate(pairwise((shape[0], *recipe.widths))):
        layers += [*([nn.MaxPool1d(2)] if n else []), *kit.conv_act(i, o, size=5)]
    return nn.Sequential(*layers, *kit.pooled(recipe.widths[-1], outputs))


class Detector(nn.Module):
    """Scores of every class, (n, outputs, cells, cells), and boxes in (0, 1), (n, 4, cells, cells)."""

    def __init__(self, body: nn.Module, channels: int, outputs: int) -> None:
        super().__init__()
        self.body = body
        self.scores = nn.Conv2d(channels, outputs, 1)
        self.boxes = nn.Conv2d(channels, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.body(x)
        return self.scores(x), self.boxes(x).sigmoid()


def detector(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """Convolutions of `widths`, the first three with stride 2 (cells of 8 × 8), the last two with two
    convolutions each, and two heads.
    """
    kit = Kit.of(recipe)
    layers: list[nn.Module] = []
    for n, (i, o) in enumerate(pairwise((shape[0], *recipe.widths))):
        layers += kit.conv_act(i, o, stride=2 if n < 3 else 1)
        layers += kit.conv_act(o, o) if n >= 2 else []
    return Detector(nn.Sequential(*layers), recipe.widths[-1], outputs)


FAMILIES: dict[str, Callable[[Recipe, Shape, int], nn.Module]] = {
    "dense": dense,
    "cnn": cnn,
    "vgg": vgg,
    "resnet-a": resnet,
    "resnet-b": resnet,
    "densenet": densenet,
    "mobilenet": mobilenet,
    "vit": vit,
    "series": series,
    "detector": detector,
}


def build(recipe: Recipe, shape: Shape, outputs: int) -> nn.Module:
    """The untrained network of a recipe for inputs of `shape` (without the batch)."""
    return FAMILIES[recipe.family](recipe, shape, outputs)
