"""The networks that papers on pruning prune: ResNet-18, ResNet-50 and VGG-16 with batch norm, on CIFAR-10.

    cd benchmarks
    python -m networks.standard --packages DIR --output DIR [--device cuda] [NAME …]

On an H100 the three take a few minutes, on two cores days. NAME.safetensors (float16) is too large to be kept
here. Inputs are (pictures − MEAN) / STD. Test data only measure here.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import size_networks

from . import data
from .command import arguments
from .training import measure, outputs_of, taken
from .transformers.training import decayed, moved

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
BATCH, RATE, DECAY = 512, 0.4, 5e-4
_VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512)  # 0: a pool


def conv_bn(i: int, o: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*size_networks.conv_bn(i, o, kernel, stride))


class Block(nn.Module):
    """A residual block of convolutions (channels, kernel); the stride is that of the first of 3 × 3."""

    def __init__(self, i: int, convs: tuple[tuple[int, int], ...], stride: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        o, left = i, stride
        for channels, kernel in convs:
            layers += [conv_bn(o, channels, kernel, left if kernel == 3 else 1), nn.ReLU()]
            o, left = channels, 1 if kernel == 3 else left
        self.body = nn.Sequential(*layers[:-1])
        same = stride == 1 and i == o
        self.shortcut = nn.Identity() if same else conv_bn(i, o, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def resnet(blocks: tuple[int, ...], bottleneck: bool) -> nn.Module:
    """ResNet-18 or -50 with a stem of 3 × 3 and no pool, as is usual for pictures of 32 × 32."""
    layers: list[nn.Module] = [conv_bn(3, 64), nn.ReLU()]
    channels = 64
    for n, count in enumerate(blocks):
        width = 64 * 2**n
        convs = ((width, 1), (width, 3), (4 * width, 1)) if bottleneck else ((width, 3), (width, 3))
        for block in range(count):
            layers.append(Block(channels, convs, 2 if n and block == 0 else 1))
            channels = convs[-1][0]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def vgg16() -> nn.Module:
    layers: list[nn.Module] = []
    channels = 3
    for width in _VGG16:
        layers += [conv_bn(channels, width), nn.ReLU()] if width else [nn.MaxPool2d(2)]
        channels = width or channels
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


# How each is built, and the passes over the training data.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (lambda: resnet((2, 2, 2, 2), bottleneck=False), 30),
    "vgg16": (vgg16, 50),
    "resnet50": (lambda: resnet((3, 4, 6, 3), bottleneck=True), 24),
}


def main() -> None:
    parser = arguments(__doc__, "networks.standard", "default: all")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    train, test = data.training("cifar10", asked.packages)
    for name in asked.names or NETWORKS:
        began = time.perf_counter()
        model = trained(name, train, asked.device)
        save_file(kept(model), asked.output / f"{name}.safetensors")
        row = {"accuracy": accuracy(load(name, asked.output), test, asked.device)}
        row |= {"seconds": round(time.perf_counter() - began)}
        (asked.output / f"{name}.json").write_text(json.dumps(row) + "\n")
        print(name, row, flush=True)


def load(name: str, folder: Path) -> nn.Module:
    """A trained network in eval mode, float32."""
    model = NETWORKS[name][0]()
    weights = load_file(folder / f"{name}.safetensors")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return model.eval()


def kept(model: nn.Module) -> dict[str, Tensor]:
    """The state in float16."""
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    return {k: v.half() if v.is_floating_point() else v for k, v in state.items()}


def normalised(x: Tensor) -> Tensor:
    return taken(x, MEAN, STD)


def trained(name: str, samples: data.Samples, device: str, seed: int = 0) -> nn.Module:
    """SGD with momentum, one cycle, bfloat16, pictures moved and mirrored, labels smoothed by 0.1."""
    torch.manual_seed(seed)
    build, passes = NETWORKS[name]
    model = build().to(device, memory_format=torch.channels_last).train()
    x, labels = normalised(samples.images.to(device)), samples.labels.to(device)
    steps = passes * math.ceil(len(x) / BATCH)
    optimizer = torch.optim.SGD(decayed(model, DECAY), RATE, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, RATE, total_steps=steps, pct_start=0.2, cycle_momentum=False
    )
    began = time.perf_counter()
    for n in range(passes):
        for chosen in torch.randperm(len(x)).to(device).split(BATCH):
            pictures = moved(x[chosen]).contiguous(memory_format=torch.channels_last)
            with torch.autocast(torch.device(device).type, torch.bfloat16):
                loss = F.cross_entropy(model(pictures).float(), labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds = time.perf_counter() - began
        print(f"{name} pass {n + 1} of {passes} loss {float(loss.detach()):.3f} {seconds:.0f} s", flush=True)
    return model.eval().to(memory_format=torch.contiguous_format).cpu()


def accuracy(model: nn.Module, samples: data.Samples, device: str = "cpu") -> float:
    """`model` is moved to `device`."""
    outputs = outputs_of(model.to(device), normalised(samples.images.to(device))).cpu()
    return measure("classes", outputs, samples)["accuracy"]


if __name__ == "__main__":
    main()
