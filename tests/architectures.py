"""Small random-weight networks, written the way users write them: one row per architecture that must be
handled.

Widths of different groups differ, so that a mix-up of indices shows; norms, biases and scales are random, so
that nothing is trivially zero or one. To add an architecture, write its class and add one row to the table at
the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 2


@dataclass(frozen=True)
class Architecture:
    """`build` gives the same network each time, in eval mode; `example` gives inputs for it, a batch of
    two.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], tuple[Tensor, ...]]


# --- Shared pieces ------------------------------------------------------------------------------------------


def randomise(model: nn.Module) -> None:
    """Random norms (scales of both signs), biases and running statistics; weights that keep activations near
    1.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.normal_(module.weight, std=math.sqrt(1.5 / module.weight[0].numel()))
        if getattr(module, "running_var", None) is not None:
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.modules.batchnorm._NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm):
            sign = torch.randint(0, 2, module.weight.shape) * 2 - 1
            module.weight.copy_(sign * torch.empty_like(module.weight).uniform_(0.5, 1.5))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.uniform_(-0.4, 0.4)


def conv_bn_relu(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def conv_bn(inputs: int, outputs: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return conv_bn_relu(inputs, outputs, size, stride, groups)[:2]


def pooled_head(channels: int, classes: int = 5) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


# --- Multi-layer perceptrons --------------------------------------------------------------------------------


def mlp(
    activation: Callable[[], nn.Module] = nn.ReLU, widths: tuple[int, ...] = (12, 20, 14, 9, 5)
) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


class ResidualMLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 16)
        self.blocks = nn.ModuleList([mlp(widths=(16, hidden, 16)) for hidden in (22, 13)])
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = x + block(x)
        return self.head(F.relu(x))


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, dim: int, token_hidden: int, channel_hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.token_mlp = mlp(nn.GELU, (tokens, token_hidden, tokens))
        self.channel_mlp = mlp(nn.GELU, (dim, channel_hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.token_mlp(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channel_mlp(self.norm2(x))


class MLPMixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.blocks = nn.Sequential(MixerBlock(9, 12, 15, 22), MixerBlock(9, 12, 11, 18))
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(dim=1))


class Highway(nn.Module):
    """y = g·h(x) + (1 − g)·x, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(8, 14)
        self.transform = nn.ModuleList([nn.Linear(14, 14) for _ in range(2)])
        self.gate = nn.ModuleList([nn.Linear(14, 14) for _ in range(2)])
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for transform, gate in zip(self.transform, self.gate, strict=True):
            g = torch.sigmoid(gate(x))
            x = g * F.relu(transform(x)) + (1 - g) * x
        return self.head(x)


class TiedLinear(nn.Module):
    """The same d → d layer twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared, self.head = nn.Linear(8, 12), nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.shared(x))
        x = torch.relu(self.shared(x))
        return self.head(x)


class BareParameters(nn.Module):
    """Weights as parameters of the model itself, `x @ w + b`."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(8, 17) / 3)
        self.b1 = nn.Parameter(torch.randn(17) / 3)
        self.w2 = nn.Parameter(torch.randn(17, 11) / 4)
        self.b2 = nn.Parameter(torch.randn(11) / 3)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x @ self.w1 + self.b1)
        x = torch.tanh(torch.matmul(x, self.w2) + self.b2)
        return self.head(x)


class EinsumLinear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(17, 8) / 3)
        self.w2 = nn.Parameter(torch.randn(17, 11) / 4)
        self.head = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(torch.einsum("btd,hd->bth", x, self.w1))
        x = F.relu(torch.einsum("bth,ho->bto", x, self.w2))
        return self.head(x.mean(dim=1))


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class FusedSwiGLU(nn.Module):
    """Gate and value from one layer, split in two."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate_up, self.down = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class FeedForward(nn.Module):
    """A feed-forward layer with a residual and a pre-norm, between two linear layers."""

    def __init__(self, inner: nn.Module, dim: int = 10) -> None:
        super().__init__()
        self.stem, self.norm, self.inner = nn.Linear(7, dim), nn.RMSNorm(dim), inner
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.inner(self.norm(x)))


# --- Plain convolutional networks ---------------------------------------------------------------------------


def cnn(norm: Callable[[int], nn.Module] = lambda channels: nn.Identity()) -> nn.Sequential:
    """Three convolutions; `norm` makes what follows each: a norm, a dropout or nothing."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), norm(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3), norm(12), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(12, 18, 3), norm(18), nn.ReLU(),
        *pooled_head(18),
    )  # fmt: skip


def cnn_prelu() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 14, 3, stride=2), nn.PReLU(14), nn.Conv2d(14, 9, 3), nn.PReLU(),
        *pooled_head(9),
    )  # fmt: skip


def vgg_bn() -> nn.Sequential:
    features = [
        conv_bn_relu(3, 8),
        conv_bn_relu(8, 10),
        nn.MaxPool2d(2),
        conv_bn_relu(10, 16),
        nn.MaxPool2d(2),
    ]
    classifier = [
        nn.Flatten(),
        nn.Linear(16 * 3 * 3, 24), nn.ReLU(True), nn.Dropout(0.5),
        nn.Linear(24, 18), nn.ReLU(True), nn.Dropout(0.5),
        nn.Linear(18, 5),
    ]  # fmt: skip
    return nn.Sequential(*features, *classifier)


def adaptive_pool_flatten() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 4)), nn.Flatten(),
        nn.Linear(6 * 4 * 4, 15), nn.ReLU(), nn.Linear(15, 5),
    )  # fmt: skip


def conv1d_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(4, 10, 5, padding=2), nn.BatchNorm1d(10), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(10, 14, 3, dilation=2), nn.ReLU(), nn.AdaptiveAvgPool1d(3), nn.Flatten(),
        nn.Linear(14 * 3, 9), nn.ReLU(), nn.Linear(9, 5),
    )  # fmt: skip


def conv3d_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(2, 7, 3, padding=1), nn.BatchNorm3d(7), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(7, 11, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(11, 5),
    )  # fmt: skip


class ViewCNN(nn.Module):
    """LeNet-style, flattened with `view`."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 11, 3)
        self.fc1, self.fc2 = nn.Linear(11 * 2 * 2, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.avg_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        return self.fc2(F.relu(self.fc1(x)))


class BakedSizes(nn.Module):
    """Sizes as numbers in `forward`, which cannot follow the smaller weights in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 16, 3)
        self.fc1, self.fc2 = nn.Linear(64, 20), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, 64)
        return self.fc2(F.relu(self.fc1(x)))


class MeanPoolCNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn_relu(3, 9), conv_bn_relu(9, 15, stride=2)
        self.fc = nn.Linear(15, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv2(self.conv1(x)).mean((2, 3)))


# --- Residual and grouped convolutional networks ------------------------------------------------------------


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn_relu(inputs, hidden, stride=stride), conv_bn(hidden, outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(x)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions; with `groups` > 1, a ResNeXt block."""

    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.reduce = conv_bn_relu(inputs, hidden, 1)
        self.middle = conv_bn_relu(hidden, hidden, 3, stride, groups)
        self.expand = conv_bn(hidden, outputs, 1)
        self.shortcut = nn.Identity() if inputs == outputs else conv_bn(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.expand(self.middle(self.reduce(x))) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, hidden, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(hidden), nn.Conv2d(hidden, outputs, 3, 1, 1, bias=False)
        self.shortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        return self.conv2(F.relu(self.bn2(self.conv1(y)))) + shortcut


class InplaceResidual(nn.Module):
    """Residual sums and activations written in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv1, self.conv2 = conv_bn(3, 10), conv_bn_relu(10, 14), conv_bn(14, 10)
        self.relu = nn.ReLU(inplace=True)
        self.head = pooled_head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.conv2(self.conv1(x))
        y += x
        return self.head(self.relu(y))


class InvertedResidual(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *conv_bn(inputs, hidden, 1), nn.ReLU6(inplace=True),
            *conv_bn(hidden, hidden, 3, stride, groups=hidden), nn.ReLU6(inplace=True),
            *conv_bn(hidden, outputs, 1),
        )  # fmt: skip
        self.use_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.use_residual else self.layers(x)


def resnet(block: Callable[..., nn.Module], **options: int) -> nn.Sequential:
    """A stem, three residual blocks of two widths, a head; inner widths differ from both."""
    blocks = (block(8, 12, 8, **options), block(8, 16, 14, stride=2, **options), block(14, 20, 14, **options))
    return nn.Sequential(conv_bn_relu(3, 8), *blocks, pooled_head(14))


def preactivation_resnet() -> nn.Sequential:
    blocks = (
        PreActivationBlock(8, 12, 8),
        PreActivationBlock(8, 10, 14, stride=2),
        PreActivationBlock(14, 9, 14),
    )
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), *blocks, nn.BatchNorm2d(14), nn.ReLU(), pooled_head(14)
    )


def mobilenet() -> nn.Sequential:
    blocks = (InvertedResidual(8, 18, 8), InvertedResidual(8, 24, 12, stride=2), InvertedResidual(12, 20, 12))
    return nn.Sequential(
        *conv_bn(3, 8), nn.ReLU6(), *blocks, *conv_bn(12, 22, 1), nn.ReLU6(), pooled_head(22)
    )


def depthwise_multiplier() -> nn.Sequential:
    """Each channel of the depthwise convolution makes two."""
    return nn.Sequential(
        nn.Conv2d(3, 7, 3), nn.ReLU(), nn.Conv2d(7, 14, 3, groups=7), nn.BatchNorm2d(14), nn.ReLU(),
        nn.Conv2d(14, 10, 1), nn.ReLU(), pooled_head(10),
    )  # fmt: skip


class ConvNeXtBlock(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)
        self.gamma = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.dwconv(x).permute(0, 2, 3, 1)
        y = self.pwconv2(self.act(self.pwconv1(self.norm(y))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


def convnext() -> nn.Sequential:
    stem = nn.Conv2d(3, 10, 2, stride=2)
    return nn.Sequential(
        stem, ConvNeXtBlock(10, 21), nn.Conv2d(10, 13, 2, 2), ConvNeXtBlock(13, 18), pooled_head(13)
    )


# --- Splits, concatenations and shuffles --------------------------------------------------------------------


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.transition = conv_bn_relu(3, 8), conv_bn_relu(8 + 5 + 6 + 7, 12, 1)
        self.layers = nn.ModuleList([conv_bn_relu(8, 5), conv_bn_relu(13, 6), conv_bn_relu(19, 7)])
        self.head = pooled_head(12)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, dim=1)))
        return self.head(self.transition(torch.cat(features, 1)))


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        depthwise = conv_bn(half, half, groups=half)
        self.branch = nn.Sequential(conv_bn_relu(half, half, 1), depthwise, conv_bn_relu(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((left, self.branch(right)), dim=1), 2)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


def shufflenet() -> nn.Sequential:
    return nn.Sequential(
        conv_bn_relu(3, 12), ShuffleUnit(12), ShuffleUnit(12), conv_bn_relu(12, 17), pooled_head(17)
    )


class C2fBottleneck(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv_bn_relu(channels, hidden), conv_bn_relu(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x))


class C2f(nn.Module):
    """YOLO's block: halves, a chain of bottlenecks on the second half, everything concatenated."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv_bn_relu(inputs, 2 * hidden, 1), conv_bn_relu(4 * hidden, outputs, 1)
        self.blocks = nn.ModuleList([C2fBottleneck(hidden, hidden + 3), C2fBottleneck(hidden, hidden + 2)])

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(block(y[-1]) for block in self.blocks)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = conv_bn_relu(inputs, hidden, 1), conv_bn_relu(4 * hidden, outputs, 1)
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y1 = self.pool(x)
        y2 = self.pool(y1)
        return self.cv2(torch.cat((x, y1, y2, self.pool(y2)), 1))


class ChannelSlice(nn.Module):
    """A depthwise path for the first channels, the others pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.partial, self.mix = (
            conv_bn_relu(3, 13),
            nn.Conv2d(5, 5, 3, padding=1),
            conv_bn_relu(13, 10, 1),
        )
        self.head = pooled_head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([self.partial(x[:, :5]), x[:, 5:]], dim=1)
        return self.head(self.mix(x))


class StackMean(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn_relu(3, 11, size) for size in (1, 3, 5)])
        self.head = nn.Sequential(conv_bn_relu(11, 8), pooled_head(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([branch(x) for branch in self.branches]).mean(dim=0))


class ProductOfBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = conv_bn_relu(3, 8), conv_bn_relu(8, 13), conv_bn(8, 13, 1)
        self.head = pooled_head(13)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.left(x) * self.right(x))


class SpatialAttention(nn.Module):
    """One gate channel, broadcast over all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.body = (
            conv_bn_relu(3, 12),
            nn.Conv2d(12, 1, 3, padding=1),
            conv_bn_relu(12, 9),
        )
        self.head = pooled_head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.body(x * torch.sigmoid(self.gate(x))))


class SqueezeExciteConv(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(self.pool(x)))))


class SqueezeExciteLinear(nn.Module):
    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1).expand_as(x)


def squeeze_excite(gate: Callable[[int, int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(conv_bn_relu(3, 14), gate(14, 6), conv_bn_relu(14, 10), gate(10, 4), pooled_head(10))


# --- Dense prediction and decoders --------------------------------------------------------------------------


class UNet(nn.Module):
    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = conv_bn_relu(3, 8), conv_bn_relu(8, 12), conv_bn_relu(12, 18)
        self.up2, self.up1 = (self.upsample(18, 12, transposed), self.upsample(14, 9, transposed))
        self.conv2, self.conv1 = conv_bn_relu(12 + 12, 14), conv_bn_relu(8 + 9, 10)
        self.out = nn.Conv2d(10, 4, 1)

    @staticmethod
    def upsample(inputs: int, outputs: int, transposed: bool) -> nn.Module:
        if transposed:
            return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        return nn.Sequential(
            nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(F.max_pool2d(skip1, 2))
        x = self.bottom(F.max_pool2d(skip2, 2))
        x = self.conv2(torch.cat([skip2, self.up2(x)], dim=1))
        x = self.conv1(torch.cat([skip1, self.up1(x)], dim=1))
        return self.out(x)


class Decoder(nn.Module):
    """A vector unfolded to a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 11 * 4 * 4)
        self.up, self.out = nn.ConvTranspose2d(11, 7, 4, stride=2, padding=1), nn.Conv2d(7, 2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = F.relu(self.fc(z))
        x = x.view(x.size(0), -1, 4, 4)
        return torch.sigmoid(self.out(F.relu(self.up(x))))


class SuperResolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 14, 3, padding=1), nn.ReLU(), nn.Conv2d(14, 10, 3, padding=1), nn.ReLU()
        )
        self.up, self.shuffle = nn.Conv2d(10, 6 * 2**2, 3, padding=1), nn.PixelShuffle(2)
        self.out = nn.Conv2d(6, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.shuffle(self.up(self.body(x))))) + F.interpolate(x, scale_factor=2.0)


# --- Attention ----------------------------------------------------------------------------------------------


class FusedAttention(nn.Module):
    """One layer for q, k and v, unbound; as in timm."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, t, d))


class SeparateAttention(nn.Module):
    """Single-headed, softmax(q kᵀ · scale) v by hand; the inner width differs from the outer."""

    def __init__(self, dim: int, inner: int, value: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(dim, inner), nn.Linear(dim, inner), nn.Linear(dim, value)
        self.proj = nn.Linear(value, dim)
        self.scale = inner**-0.5

    def forward(self, x: Tensor) -> Tensor:
        attention = (self.q(x) @ self.k(x).transpose(-2, -1) * self.scale).softmax(dim=-1)
        return self.proj(attention @ self.v(x))


class AttributeAttention(nn.Module):
    """Heads and head width are attributes that `forward` reads; as in Hugging Face's BERT."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.all_head_size = num_heads, head_dim, num_heads * head_dim
        self.query, self.key = nn.Linear(dim, self.all_head_size), nn.Linear(dim, self.all_head_size)
        self.value, self.out = nn.Linear(dim, self.all_head_size), nn.Linear(self.all_head_size, dim)

    def split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.num_heads, self.head_dim).permute(0, 2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.query(x)), self.split(self.key(x)), self.split(self.value(x))
        weights = torch.softmax(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.head_dim), dim=-1)
        context = torch.matmul(weights, v).permute(0, 2, 1, 3).contiguous()
        return self.out(context.view(*context.shape[:-2], self.all_head_size))


class ExplicitPadding(nn.Module):
    """Padding written out, uneven, as networks that come from TensorFlow have it; extra channels of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 8, 3, groups=8)
        self.norm, self.point, self.wide = nn.BatchNorm2d(8), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 16, 1)
        self.head = pooled_head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem(F.pad(x, (0, 1, 0, 1))))
        x = F.relu6(self.norm(self.depthwise(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        x = F.relu(self.point(F.pad(x, (1, 1, 1, 1), value=0.5)))
        x = self.wide(x) + F.pad(x, (0, 0, 0, 0, 2, 2))  # the shortcut of a ResNet without weights
        return self.head(F.relu(x))


class FoldedTokens(nn.Module):
    """Batch norm over tokens folded into the batch, as in LeViT."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = (
            nn.Linear(7, 14, bias=False),
            nn.BatchNorm1d(14),
            nn.Linear(14, 9),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = F.hardswish(self.norm(x.flatten(0, 1)).reshape_as(x))
        return self.second(x).mean(1)


class RotaryAttention(nn.Module):
    """Queries and keys turned by angles that are made under `no_grad`; heads found by their width, as in
    Llama.
    """

    def __init__(self, dim: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Linear(dim, heads * head_dim, bias=False) for _ in range(3)
        )
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)

    @torch.no_grad()
    def angles(self, x: Tensor) -> Tensor:
        half = torch.arange(self.head_dim // 2, device=x.device)
        angles = torch.arange(x.shape[1], device=x.device)[:, None] / 100.0 ** (2 * half / self.head_dim)
        return torch.cat([angles, angles], dim=1).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        angles = self.angles(x)

        def turned(y: Tensor) -> Tensor:
            low, high = y[..., : y.shape[-1] // 2], y[..., y.shape[-1] // 2 :]
            return y * angles.cos() + torch.cat([-high, low], dim=-1) * angles.sin()

        split = (*x.shape[:-1], -1, self.head_dim)
        q, k, v = (f(x).view(split).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        x = F.scaled_dot_product_attention(turned(q), turned(k), v)
        return self.o_proj(x.transpose(1, 2).flatten(2))


class GroupedQueryAttention(nn.Module):
    """More query heads than key and value heads; causal."""

    def __init__(self, dim: int, heads: int, shared: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.shared, self.head_dim = heads, shared, head_dim
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(dim, shared * head_dim, bias=False)
        self.v_proj = nn.Linear(dim, shared * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q_proj(x).view(b, t, self.heads, self.head_dim).transpose(1, 2)
        k = self.k_proj(x).view(b, t, self.shared, self.head_dim).transpose(1, 2)
        v = self.v_proj(x).view(b, t, self.shared, self.head_dim).transpose(1, 2)
        k, v = (y.repeat_interleave(self.heads // self.shared, dim=1) for y in (k, v))
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(x.transpose(1, 2).contiguous().view(b, t, -1))


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` on one input."""

    def __init__(self, dim: int, heads: int, need_weights: bool) -> None:
        super().__init__()
        self.attention, self.need_weights = nn.MultiheadAttention(dim, heads, batch_first=True), need_weights

    def forward(self, x: Tensor) -> Tensor:
        if self.need_weights:
            x, _ = self.attention(x, x, x)
            return x
        return self.attention(x, x, x, need_weights=False)[0]


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.randn(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward layer; with `scaled`, a learned scale on each branch."""

    def __init__(self, attention: nn.Module, dim: int, hidden: int, scaled: bool = False) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(dim), attention, nn.LayerNorm(dim)
        self.mlp = mlp(nn.GELU, (dim, hidden, dim))
        self.scale1, self.scale2 = (LayerScale(dim) if scaled else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.scale1(self.attn(self.norm1(x)))
        return x + self.scale2(self.mlp(self.norm2(x)))


class SequenceClassifier(nn.Module):
    """Vectors in, a body over the sequence, mean over time, classes out."""

    def __init__(self, body: nn.Module, dim: int = 12, inputs: int = 7) -> None:
        super().__init__()
        self.stem, self.body, self.norm = nn.Linear(inputs, dim), body, nn.LayerNorm(dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(self.stem(x))).mean(dim=1))


def transformer(attention: Callable[[], nn.Module], scaled: bool = False) -> SequenceClassifier:
    return SequenceClassifier(TransformerBlock(attention(), 12, 20, scaled))


def encoder_layer(norm_first: bool) -> SequenceClassifier:
    layer = nn.TransformerEncoderLayer(12, 3, 20, batch_first=True, norm_first=norm_first)
    return SequenceClassifier(layer)


class VisionTransformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 12, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, 12))
        self.pos_embed = nn.Parameter(torch.randn(1, 10, 12) / 2)
        self.blocks = nn.Sequential(
            *[TransformerBlock(FusedAttention(12, 3), 12, hidden) for hidden in (22, 17)]
        )
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class FixedHeads(nn.Module):
    """Head count, head width and sequence length are constants, so that Python cannot follow when heads
    leave.
    """

    heads = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv = nn.Linear(7, 10), nn.Linear(10, 3 * 12)
        self.proj, self.head = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        q, k, v = (y.view(y.size(0), 6, self.heads, 3).transpose(1, 2) for y in self.qkv(x).split(12, dim=-1))
        y = torch.softmax(q @ k.transpose(-2, -1) / 3**0.5, dim=-1) @ v
        return self.head((x + self.proj(y.transpose(1, 2).reshape(-1, 6, 12))).amax(dim=1))


# --- Tokens and recurrence ----------------------------------------------------------------------------------


class TiedEmbedding(nn.Module):
    """A language model whose output projection is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(19, 12), nn.Parameter(torch.randn(6, 12) / 2)
        self.block = TransformerBlock(GroupedQueryAttention(12, 4, 2, 3), 12, 20)
        self.norm, self.output = nn.LayerNorm(12), nn.Linear(12, 19, bias=False)
        self.output.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]
        return self.output(self.norm(self.block(x)))


class RecurrentClassifier(nn.Module):
    """A convolution, a recurrent layer, two linear layers on its last step."""

    def __init__(self, layer: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 9, 3, padding=1)
        self.rnn = layer(9, 11, batch_first=True)
        self.fc1, self.fc2 = nn.Linear(11, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x)).transpose(1, 2)
        x, _ = self.rnn(x)
        return self.fc2(F.relu(self.fc1(x[:, -1])))


# --- Several inputs and outputs -----------------------------------------------------------------------------


class ImageAndTable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(
            conv_bn_relu(3, 9), conv_bn_relu(9, 13), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.table = mlp(widths=(6, 15, 8))
        self.head = mlp(widths=(13 * 4 + 8, 17, 5))

    def forward(self, image: Tensor, table: Tensor) -> Tensor:
        return self.head(torch.cat([self.image(image), self.table(table)], dim=1))


class TwoOutputs(nn.Module):
    """A detector's two heads on one backbone; as a tuple or as a dict."""

    def __init__(self, as_dict: bool) -> None:
        super().__init__()
        self.backbone = nn.Sequential(conv_bn_relu(3, 10), conv_bn_relu(10, 14, stride=2))
        self.classes, self.boxes = pooled_head(14), nn.Sequential(conv_bn_relu(14, 9), nn.Conv2d(9, 4, 1))
        self.as_dict = as_dict

    def forward(self, x: Tensor) -> dict[str, Tensor] | tuple[Tensor, Tensor]:
        x = self.backbone(x)
        classes, boxes = self.classes(x), self.boxes(x)
        return {"classes": classes, "boxes": boxes} if self.as_dict else (classes, boxes)


class Siamese(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            conv_bn_relu(3, 9), conv_bn_relu(9, 13), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = mlp(widths=(13, 11, 1))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.head((self.tower(left) - self.tower(right)).abs())


class DataDependent(nn.Module):
    """Takes one way or another by the value of its input: no static graph."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = mlp(), mlp(nn.Tanh)

    def forward(self, x: Tensor) -> Tensor:
        return self.high(x) if x.sum() > 0 else self.low(x)


# --- The table ----------------------------------------------------------------------------------------------

IMAGE = (3, 12, 12)
SEQUENCE = (6, 7)
SIGNAL = (4, 16)


def signal(batch: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Noise with its own mean for each sample and channel, so that averages over space tell samples apart."""
    means = torch.randn(batch, shape[0], *(1 for _ in shape[1:]), generator=generator)
    return means + torch.randn(batch, *shape, generator=generator)


def row(
    name: str, make: Callable[[], nn.Module], *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Architecture:
    """One architecture on random inputs of `shapes`, the batch axis left out."""

    def build() -> nn.Module:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model = make()
            randomise(model)
        return model.to(dtype).eval()

    def example() -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(1)
        return tuple(signal(BATCH, shape, generator).to(dtype) for shape in shapes)

    return Architecture(name, build, example)


def token_row(name: str, make: Callable[[], nn.Module], length: int, vocabulary: int) -> Architecture:
    def example() -> tuple[Tensor, ...]:
        return (torch.randint(vocabulary, (BATCH, length), generator=torch.Generator().manual_seed(1)),)

    return Architecture(name, row(name, make).build, example)


_ROWS = (
    row("mlp_relu", mlp, (12,)),
    row("mlp_sigmoid", lambda: mlp(nn.Sigmoid), (12,)),
    row("mlp_tanh", lambda: mlp(nn.Tanh), (12,)),
    row("mlp_gelu", lambda: mlp(nn.GELU), (12,)),
    row("mlp_float16", mlp, (12,), dtype=torch.float16),
    row("mlp_bfloat16", mlp, (12,), dtype=torch.bfloat16),
    row("mlp_residual", ResidualMLP, (10,)),
    row("mlp_mixer", MLPMixer, IMAGE),
    row("highway", Highway, (8,)),
    row("tied_linear", TiedLinear, (8,)),
    row("bare_parameters", BareParameters, (8,)),
    row("einsum_linear", EinsumLinear, (4, 8)),
    row("swiglu", lambda: FeedForward(SwiGLU(10, 16)), (6, 7)),
    row("swiglu_fused", lambda: FeedForward(FusedSwiGLU(10, 16)), (6, 7)),
    row("cnn", cnn, IMAGE),
    row("cnn_float16", cnn, IMAGE, dtype=torch.float16),
    row("cnn_bfloat16", lambda: cnn(nn.BatchNorm2d), IMAGE, dtype=torch.bfloat16),
    row("cnn_batch_norm", lambda: cnn(nn.BatchNorm2d), IMAGE),
    row("cnn_group_norm", lambda: cnn(lambda channels: nn.GroupNorm(2, channels)), IMAGE),
    row("cnn_instance_norm", lambda: cnn(lambda channels: nn.InstanceNorm2d(channels, affine=True)), IMAGE),
    row("cnn_dropout2d", lambda: cnn(lambda channels: nn.Dropout2d(0.2)), IMAGE),
    row("cnn_prelu", cnn_prelu, IMAGE),
    row("cnn_mean_pool", MeanPoolCNN, IMAGE),
    row("cnn_adaptive_pool", adaptive_pool_flatten, IMAGE),
    row("cnn_view", ViewCNN, IMAGE),
    row("cnn_baked_sizes", BakedSizes, IMAGE),
    row("conv1d", conv1d_net, SIGNAL),
    row("conv3d", conv3d_net, (2, 6, 8, 8)),
    row("vgg_batch_norm", vgg_bn, IMAGE),
    row("resnet_basic", lambda: resnet(BasicBlock), IMAGE),
    row("resnet_bottleneck", lambda: resnet(Bottleneck), IMAGE),
    row("resnet_preactivation", preactivation_resnet, IMAGE),
    row("resnet_inplace", InplaceResidual, IMAGE),
    row("resnext", lambda: resnet(Bottleneck, groups=4), IMAGE),
    row("mobilenet", mobilenet, IMAGE),
    row("depthwise_multiplier", depthwise_multiplier, IMAGE),
    row("convnext", convnext, IMAGE),
    row("densenet", DenseNet, IMAGE),
    row("shufflenet", shufflenet, IMAGE),
    row("yolo_c2f", lambda: nn.Sequential(conv_bn_relu(3, 9), C2f(9, 6, 14), pooled_head(14)), IMAGE),
    row("spatial_pyramid", lambda: nn.Sequential(conv_bn_relu(3, 9), SPPF(9, 6, 14), pooled_head(14)), IMAGE),
    row("channel_slice", ChannelSlice, IMAGE),
    row("stack_mean", StackMean, IMAGE),
    row("product_of_branches", ProductOfBranches, IMAGE),
    row("spatial_attention", SpatialAttention, IMAGE),
    row("squeeze_excite_conv", lambda: squeeze_excite(SqueezeExciteConv), IMAGE),
    row("squeeze_excite_linear", lambda: squeeze_excite(SqueezeExciteLinear), IMAGE),
    row("unet_transposed", lambda: UNet(transposed=True), IMAGE),
    row("unet_nearest", lambda: UNet(transposed=False), IMAGE),
    row("decoder", Decoder, (6,)),
    row("super_resolution", SuperResolution, (3, 6, 6)),
    row("attention_fused", lambda: transformer(lambda: FusedAttention(12, 3)), SEQUENCE),
    row("attention_separate", lambda: transformer(lambda: SeparateAttention(12, 9, 11)), SEQUENCE),
    row("attention_attributes", lambda: transformer(lambda: AttributeAttention(12, 3, 5)), SEQUENCE),
    row("explicit_padding", ExplicitPadding, IMAGE),
    row("folded_tokens", FoldedTokens, SEQUENCE),
    row("attention_rotary", lambda: transformer(lambda: RotaryAttention(12, 3, 4)), SEQUENCE),
    row("attention_grouped_query", lambda: transformer(lambda: GroupedQueryAttention(12, 6, 2, 3)), SEQUENCE),
    row("attention_fixed_heads", FixedHeads, SEQUENCE),
    row("multihead_weights", lambda: transformer(lambda: SelfAttention(12, 3, need_weights=True)), SEQUENCE),
    row(
        "multihead_no_weights",
        lambda: transformer(lambda: SelfAttention(12, 3, need_weights=False)),
        SEQUENCE,
    ),
    row("encoder_layer_pre_norm", lambda: encoder_layer(norm_first=True), SEQUENCE),
    row("encoder_layer_post_norm", lambda: encoder_layer(norm_first=False), SEQUENCE),
    row("layer_scale", lambda: transformer(lambda: FusedAttention(12, 4), scaled=True), SEQUENCE),
    row("vision_transformer", VisionTransformer, IMAGE),
    token_row("tied_embedding", TiedEmbedding, length=6, vocabulary=19),
    row("lstm", lambda: RecurrentClassifier(nn.LSTM), SIGNAL),
    row("gru", lambda: RecurrentClassifier(nn.GRU), SIGNAL),
    row("two_inputs", ImageAndTable, IMAGE, (6,)),
    row("two_outputs", lambda: TwoOutputs(as_dict=False), IMAGE),
    row("dict_output", lambda: TwoOutputs(as_dict=True), IMAGE),
    row("siamese", Siamese, IMAGE, IMAGE),
)

ARCHITECTURES: dict[str, Architecture] = {architecture.name: architecture for architecture in _ROWS}
assert len(ARCHITECTURES) == len(_ROWS), "two architectures share a name"

UNCAPTURABLE: list[Architecture] = [row("data_dependent", DataDependent, (12,))]
