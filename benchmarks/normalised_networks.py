"""Small networks of known normalisation, trained in seconds on one core, their weights kept in a folder.

Three data sets × four ways to normalise × dense, convolutional, with batch norm, and the last with its norms
folded.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from secateur.formats.arrays import load_arrays
from secateur.presets import PRESETS, Preset

DATA = ("mnist", "cifar10", "fashion_mnist")
KINDS = ("dense", "convolutions", "batch norm", "folded")
TRAINED_ON, MEASURED_ON, EPOCHS, BATCH = 5000, 2000, 3, 50

MEANS = {
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
    "cifar10": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def standardised_for(data: str) -> Preset:
    return Preset((0.0, 1.0), *MEANS[data])


def candidates(data: str) -> dict[str, Preset]:
    """The ways to normalise that networks are trained with."""
    return {
        "none": PRESETS["none"],
        "minus1to1": PRESETS["minus1to1"],
        "0-255": Preset((0.0, 255.0)),
        "standardised": standardised_for(data),
    }


def taken(preset: Preset, images: Tensor) -> Tensor:
    """Images of [0, 1] as a model sees them to which `preset` is applied."""
    low, high = preset.bounds
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (preset.mean or (0.0,), preset.std or (1.0,)))
    return (low + (high - low) * images - mean) / std


@dataclass(frozen=True, eq=False)
class Network:
    data: str
    taken: str  # a key of `candidates`
    kind: str
    seed: int  # below 0: not trained here
    model: nn.Module
    accuracy: float  # on inputs as it takes them
    name: str


def networks(shared: Path, cache: Path, seeds: int) -> Iterator[Network]:
    """All of them, from the cache where they are there."""
    cache.mkdir(parents=True, exist_ok=True)
    for data in DATA:
        arrays = load_arrays(shared / "data" / f"{data}.npz")
        images, labels = arrays["images"], arrays["labels"]
        for seed in range(seeds):
            for inputs in candidates(data):
                for kind in KINDS:
                    yield _network(data, inputs, kind, seed, images, labels, cache)


def accuracy(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float((torch.cat([model(part).argmax(1) for part in x.split(500)]) == labels).float().mean())


def _network(
    data: str, inputs: str, kind: str, seed: int, images: Tensor, labels: Tensor, cache: Path
) -> Network:
    trained, preset = "batch norm" if kind == "folded" else kind, candidates(data)[inputs]
    path = cache / f"{data}-{inputs}-{trained.replace(' ', '-')}-{seed}.safetensors"
    torch.manual_seed(1000 * seed + DATA.index(data))
    model: nn.Module = build(trained, *images.shape[1:3])
    if path.is_file():
        model.load_state_dict(load_file(path))
    else:
        train(model, taken(preset, images[:TRAINED_ON]), labels[:TRAINED_ON])
        save_file(model.state_dict(), path)
    model = folded(model.eval()) if kind == "folded" else model.eval()
    measured = accuracy(model, taken(preset, images[-MEASURED_ON:]), labels[-MEASURED_ON:])
    return Network(data, inputs, kind, seed, model, measured, f"{data}, {inputs}, {kind}, seed {seed}")


def build(kind: str, channels: int, size: int) -> nn.Sequential:
    if kind == "dense":
        sizes = (channels * size * size, 128, 64)
        hidden = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))
    layers: list[nn.Module] = []
    for before, after, stride in ((channels, 16, 1), (16, 32, 2), (32, 64, 2)):
        norm = kind == "batch norm"
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=not norm)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()] if norm else [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, 10))


def train(model: nn.Module, x: Tensor, labels: Tensor) -> None:
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    steps = EPOCHS * (len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


def folded(model: nn.Module) -> nn.Module:
    """A copy with every batch norm that follows a convolution folded into it."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for before, after in pairwise(parent._modules):
            conv, norm = parent._modules[before], parent._modules[after]
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parent._modules[before], parent._modules[after] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return model.eval()
