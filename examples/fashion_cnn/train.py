"""Train the example network and write its weights.

    python train.py DATA

DATA is a folder with the four official Fashion-MNIST files (train-images-idx3-ubyte.gz, …), or an .npz file
with train_images, train_labels, test_images and test_labels.
"""

from __future__ import annotations

import argparse
import gzip
import math
import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from model import WEIGHTS, FashionCNN, build
from safetensors.torch import save_file
from torch import Tensor


def read_idx(path: Path) -> Tensor:
    """A gzipped IDX file of bytes: two zeros, the type (8), the number of axes, their sizes as big-endian
    int32.
    """
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is not an IDX file of unsigned bytes")
    axes = raw[3]
    shape = np.frombuffer(raw, ">i4", axes, offset=4)
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())


def read_data(path: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images and labels, test images and labels; images are float32 in [0, 1], (count, 1, 28,
    28).
    """
    if path.is_dir():
        names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        arrays = [read_idx(path / f"{name}-ubyte.gz") for name in names]
    else:
        with np.load(path) as file:
            names = ("train_images", "train_labels", "test_images", "test_labels")
            arrays = [torch.from_numpy(file[name]) for name in names]
    train_images, train_labels, test_images, test_labels = arrays
    return pixels(train_images), train_labels.long(), pixels(test_images), test_labels.long()


def pixels(images: Tensor) -> Tensor:
    return images.float().div(255).unsqueeze(1)


def augment(images: Tensor, pad: int = 2) -> Tensor:
    """Shift each image by up to `pad` pixels and mirror half of them."""
    count, _, height, width = images.shape
    dy, dx = torch.randint(0, 2 * pad + 1, (2, count, 1, 1))
    rows = dy + torch.arange(height).view(1, -1, 1)
    columns = dx + torch.arange(width).view(1, 1, -1)
    shifted = F.pad(images, (pad,) * 4)[torch.arange(count).view(-1, 1, 1), 0, rows, columns].unsqueeze(1)
    mirror = torch.rand(count, 1, 1, 1) < 0.5
    return torch.where(mirror, shifted.flip(3), shifted)


def train(model: FashionCNN, images: Tensor, labels: Tensor, epochs: int, batch: int = 128) -> None:
    steps = epochs * math.ceil(len(images) / batch)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(images)).split(batch):
            loss = F.cross_entropy(model(augment(images[chosen])), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1:2d} of {epochs}: loss {total / len(images):.4f}", flush=True)


@torch.no_grad()
def accuracy(model: FashionCNN, images: Tensor, labels: Tensor) -> float:
    model.eval()
    guesses = torch.cat([model(x).argmax(1) for x in images.split(500)])
    return (guesses == labels).float().mean().item()


def save(model: FashionCNN, path: Path) -> None:
    """Write beside the target and rename, so that a broken run leaves no half file."""
    unfinished = path.with_name(path.name + ".part")
    save_file(model.state_dict(), unfinished)
    os.replace(unfinished, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder of the .gz files, or .npz file")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    train_images, train_labels, test_images, test_labels = read_data(arguments.data)
    model = build()
    train(model, train_images, train_labels, arguments.epochs)
    save(model, arguments.out)
    percent = 100 * accuracy(model, test_images, test_labels)
    print(f"accuracy on {len(test_images)} test images: {percent:.2f} %; weights in {arguments.out}")


if __name__ == "__main__":
    main()
