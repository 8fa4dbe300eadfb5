"""Networks of real size, written as people write them, with random weights that keep signals alive.

MobileNetV2, EfficientNet-lite0, ResNet-50, a detector like YOLOv8n, ViT-B/16, and a small network with the
head of VGG-16. `build` gives each with what is to be known of its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 1000
_CALIBRATION = 32  # images that give the batch norms their statistics and the last layer its scale
_SPREAD = 2.0  # standard deviation of a logit over images
_BRANCH = 0.5  # what a residual branch adds, in shares of what the others do: random ones make chaos


@dataclass(frozen=True)
class Network:
    """`make` takes the side of the input and gives an untrained network; it takes (x − mean) / std of
    images.
    """

    make: Callable[[int], nn.Module]
    size: int  # side of the input
    quick: int  # a small side that goes through
    mean: float = 0.0
    std: float = 1.0


@dataclass(frozen=True, eq=False)
class Built:
    """A network in eval mode with what `prune` is told of its inputs."""

    model: nn.Module
    size: int
    mean: float
    std: float

    @property
    def inputs(self) -> dict[str, float | str]:
        """The keyword arguments of `secateur.prune` that say the same."""
        return {"mean": self.mean, "std": self.std} if self.mean else {"normalize": "none"}

    def prepared(self, images: Tensor) -> Tensor:
        """Images of [0, 1] as the network takes them."""
        return (images - self.mean) / self.std


# --- MobileNetV2 and EfficientNet-lite0 ---------------------------------------------------------------------


class SamePadding(nn.Module):
    """TensorFlow's padding of an even input for a stride of 2: one more on the right and below."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.before, self.after = (kernel - 2) // 2, (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, (self.before, self.after, self.before, self.after))


def conv_bn(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, same: bool = False
) -> list[nn.Module]:
    """A convolution and its batch norm; `same` pads strided ones as TensorFlow does."""
    shifted = same and stride == 2
    padding = 0 if shifted else kernel // 2
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    return [
        *([SamePadding(kernel)] if shifted else []),
        conv,
        nn.BatchNorm2d(outputs, eps=1e-3 if same else 1e-5),
    ]


class InvertedResidual(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int, expand: int, same: bool = False
    ) -> None:
        super().__init__()
        hidden = inputs * expand
        self.skip = stride == 1 and inputs == outputs
        layers = [] if expand == 1 else [*conv_bn(inputs, hidden, same=same), nn.ReLU6(inplace=True)]
        layers += [*conv_bn(hidden, hidden, kernel, stride, hidden, same), nn.ReLU6(inplace=True)]
        self.conv = nn.Sequential(*layers, *conv_bn(hidden, outputs, same=same))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.skip else self.conv(x)


# expansion, channels, blocks, stride, kernel
_MOBILENET = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 32, 3, 2, 3),
    (6, 64, 4, 2, 3),
    (6, 96, 3, 1, 3),
    (6, 160, 3, 2, 3),
    (6, 320, 1, 1, 3),
)
_EFFICIENTNET = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)


class MobileNet(nn.Module):
    """Inverted residual blocks, as in MobileNetV2 and in EfficientNet-lite."""

    def __init__(self, rows: tuple[tuple[int, ...], ...], same: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [*conv_bn(3, 32, 3, 2, same=same), nn.ReLU6(inplace=True)]
        channels = 32
        for expand, outputs, blocks, stride, kernel in rows:
            for i in range(blocks):
                layers.append(
                    InvertedResidual(channels, outputs, kernel, stride if i == 0 else 1, expand, same)
                )
                channels = outputs
        layers += [*conv_bn(channels, 1280, same=same), nn.ReLU6(inplace=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


# --- ResNet-50 ----------------------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(inputs, width)
        self.conv2, self.bn2 = conv_bn(width, width, 3, stride)
        self.conv3, self.bn3 = conv_bn(width, 4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(*conv_bn(inputs, 4 * width, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu(out)


class ResNet50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(3, 64, 7, 2)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1, self.layer2 = self._stage(64, 64, 3, 1), self._stage(256, 128, 4, 2)
        self.layer3, self.layer4 = self._stage(512, 256, 6, 2), self._stage(1024, 512, 3, 2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(2048, CLASSES)

    @staticmethod
    def _stage(inputs: int, width: int, blocks: int, stride: int) -> nn.Sequential:
        rest = [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(Bottleneck(inputs, width, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


# --- A detector ---------------------------------------------------------------------------------------------


class Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv, self.bn = conv_bn(inputs, outputs, kernel, stride)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x)))


class C2fBottleneck(nn.Module):
    def __init__(self, channels: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(channels, channels, 3), Conv(channels, channels, 3)
        self.add = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, shortcut: bool = False) -> None:
        super().__init__()
        self.c = outputs // 2
        self.cv1, self.cv2 = Conv(inputs, 2 * self.c), Conv((2 + blocks) * self.c, outputs)
        self.m = nn.ModuleList(C2fBottleneck(self.c, shortcut) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int = 5) -> None:
        super().__init__()
        self.cv1, self.cv2 = Conv(inputs, inputs // 2), Conv(2 * inputs, outputs)
        self.m = nn.MaxPool2d(kernel, 1, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Detect(nn.Module):
    """Decoupled heads: distances to the sides of a box as distributions over 16 bins, and class logits."""

    def __init__(self, channels: tuple[int, ...], classes: int, size: int) -> None:
        super().__init__()
        self.bins, self.classes = 16, classes
        boxes, scores = max(16, channels[0] // 4, 4 * self.bins), max(channels[0], min(classes, 100))
        self.cv2 = nn.ModuleList(self._branch(c, boxes, 4 * self.bins) for c in channels)
        self.cv3 = nn.ModuleList(self._branch(c, scores, classes) for c in channels)
        self.register_buffer("project", torch.arange(self.bins, dtype=torch.float32), persistent=False)
        centres, strides = zip(*(self._anchors(size, s) for s in (8, 16, 32)), strict=True)
        self.register_buffer("centres", torch.cat(centres, 1), persistent=False)  # shape: (2, anchors)
        self.register_buffer("strides", torch.cat(strides, 1), persistent=False)  # shape: (1, anchors)

    @staticmethod
    def _branch(inputs: int, width: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(Conv(inputs, width, 3), Conv(width, width, 3), nn.Conv2d(width, outputs, 1))

    @staticmethod
    def _anchors(size: int, stride: int) -> tuple[Tensor, Tensor]:
        side = torch.arange(size // stride) + 0.5
        y, x = torch.meshgrid(side, side, indexing="ij")
        return torch.stack((x.flatten(), y.flatten())), torch.full((1, x.numel()), float(stride))

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        parts = [
            torch.cat((box(x), score(x)), 1)
            for x, box, score in zip(features, self.cv2, self.cv3, strict=True)
        ]
        x = torch.cat([part.flatten(2) for part in parts], 2)
        sides, scores = x.split((4 * self.bins, self.classes), 1)
        n, _, anchors = sides.shape
        shares = sides.view(n, 4, self.bins, anchors).softmax(2)
        left_top, right_bottom = (shares * self.project.view(1, 1, -1, 1)).sum(2).chunk(2, 1)
        corners = self.centres - left_top, self.centres + right_bottom
        return torch.cat(corners, 1) * self.strides, scores


class Detector(nn.Module):
    """As YOLOv8n: a backbone of C2f blocks, SPPF, a path up and a path down, three scales."""

    def __init__(self, size: int, classes: int = 80) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, 16, 3, 2), Conv(16, 32, 3, 2), C2f(32, 32, 1, True))
        self.p3 = nn.Sequential(Conv(32, 64, 3, 2), C2f(64, 64, 2, True))
        self.p4 = nn.Sequential(Conv(64, 128, 3, 2), C2f(128, 128, 2, True))
        self.p5 = nn.Sequential(Conv(128, 256, 3, 2), C2f(256, 256, 1, True), SPPF(256, 256))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.up4, self.up3 = C2f(256 + 128, 128, 1), C2f(128 + 64, 64, 1)
        self.down3, self.out4 = Conv(64, 64, 3, 2), C2f(64 + 128, 128, 1)
        self.down4, self.out5 = Conv(128, 128, 3, 2), C2f(128 + 256, 256, 1)
        self.detect = Detect((64, 128, 256), classes, size)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        up4 = self.up4(torch.cat([self.up(p5), p4], 1))
        out3 = self.up3(torch.cat([self.up(up4), p3], 1))
        out4 = self.out4(torch.cat([self.down3(out3), up4], 1))
        out5 = self.out5(torch.cat([self.down4(out4), p5], 1))
        return self.detect([out3, out4, out5])


# --- ViT-B/16 -----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(batch, tokens, -1))


class Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(dim, eps=1e-6), Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, size: int, patch: int = 16, dim: int = 768, depth: int = 12, heads: int = 12) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, dim, patch, patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(0.1 * torch.randn(1, (size // patch) ** 2 + 1, dim))
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.head = nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = self.blocks(x + self.pos_embed)
        return self.head(self.norm(x)[:, 0])


# --- The head of VGG-16 -------------------------------------------------------------------------------------


class VGGHead(nn.Module):
    """Few convolutions, then VGG-16's head: 512 maps of 7 × 7 are flattened to 25,088 columns."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, 64), (64, 128), (128, 512)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(True), nn.Dropout(),
            nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, CLASSES),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


# --- Small networks for the growth of time ------------------------------------------------------------------


def plain(width: int, depth: int) -> nn.Module:
    """Convolutions of `width` channels with batch norms, `depth` of them after the first."""
    layers: list[nn.Module] = [*conv_bn(3, width, 3), nn.ReLU()]
    for _ in range(depth):
        layers += [*conv_bn(width, width, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


NETWORKS = {
    "mobilenet_v2": Network(lambda _: MobileNet(_MOBILENET, same=False), 224, 64),
    "efficientnet_lite0": Network(lambda _: MobileNet(_EFFICIENTNET, same=True), 224, 64),
    "resnet50": Network(lambda _: ResNet50(), 224, 64),
    "detector": Network(Detector, 320, 64),
    "vit_b_16": Network(ViT, 224, 32, mean=0.5, std=0.5),
    "vgg_head": Network(lambda _: VGGHead(), 56, 56),
}


def build(name: str, size: int, weights: Path | None = None) -> Built:
    """The network with random weights, the same each time; or with those of a file."""
    torch.manual_seed(0)
    network = NETWORKS[name]
    model = network.make(size).eval()
    if weights is not None:
        load(model, weights)
        return Built(model, size, mean=127 / 255, std=128 / 255)  # as EfficientNet-lite was trained
    built = Built(model, size, network.mean, network.std)
    enliven(model, built.prepared(calibration_images(size)))
    return built


def load(model: nn.Module, path: Path) -> None:
    """Weights of a state dict that lists the same tensors in the same order under other names."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    own = model.state_dict()
    if [x.shape for x in own.values()] != [x.shape for x in found.values()]:
        raise SystemExit(f"{path} does not hold the weights of this network")
    model.load_state_dict(dict(zip(own, found.values(), strict=True)))


@torch.no_grad()
def enliven(model: nn.Module, images: Tensor) -> None:
    """Random weights that keep signals and gradients alive, as those of a trained network do.

    Convolutions and dense layers are drawn as by He et al. 2015, or for a gain of 1 in transformers; batch
    norms get the statistics of `images`, and random scales and shifts; outputs vary over images.
    """
    transformer = any(isinstance(m, nn.LayerNorm) for m in model.modules())
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            gain = 1.0 if transformer else 2.0
            nn.init.normal_(module.weight, std=math.sqrt(gain / module.weight[0].numel()))
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the one pass below
    for norm in _residual_norms(model):
        norm.weight.mul_(_BRANCH)
    for module in model.modules():
        module.train(isinstance(module, nn.BatchNorm2d))  # nothing is dropped
    model(images)
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    _spread_outputs(model, images)


def _residual_norms(model: nn.Module) -> list[nn.Module]:
    """The last batch norm of every branch that is added to what goes round it."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, Bottleneck):
            found.append(module.bn3)
        elif isinstance(module, C2fBottleneck) and module.add:
            found.append(module.cv2.bn)
        elif isinstance(module, InvertedResidual) and module.skip:
            found.append(module.conv[-1])
    return found


def output_layers(model: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    """The layers whose outputs are the network's."""
    heads = [m for m in model.modules() if isinstance(m, Detect)]
    if heads:
        return [branch[-1] for head in heads for branch in (*head.cv2, *head.cv3)]
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]


def _spread_outputs(model: nn.Module, images: Tensor) -> None:
    """Scale and shift what the last layers give: about 0, and of moderate spread over images."""
    seen: dict[nn.Module, Tensor] = {}
    layers = output_layers(model)
    hooks = [layer.register_forward_hook(lambda m, _, y: seen.update({m: y})) for layer in layers]
    model(images)
    for hook in hooks:
        hook.remove()
    for layer in layers:
        assert layer.bias is not None
        rows = seen[layer].transpose(0, 1).flatten(1)  # shape: (outputs, values)
        scale = _SPREAD / rows.std(1).mean().clamp(min=1e-6)
        layer.weight.mul_(scale)
        layer.bias.sub_(rows.mean(1)).mul_(scale)


def calibration_images(size: int) -> Tensor:
    return smooth_images(_CALIBRATION, size, seed=1)


def smooth_images(count: int, size: int, seed: int) -> Tensor:
    """Random images in [0, 1] with most power at low frequencies: grids of noise, enlarged and added."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(count, 3, size, size)
    side = 2
    while side <= size:
        noise = torch.randn(count, 3, side, side, generator=generator)
        images += 2.0 / side * F.interpolate(noise, (size, size), mode="bilinear", align_corners=True)
        side *= 2
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return (images - low) / (high - low)
