"""A small convolutional network for Fashion-MNIST: 28×28 grey images in [0, 1] in, ten logits out."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn

HERE = Path(__file__).parent
WEIGHTS = HERE / "fashion_cnn.safetensors"
CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


class FashionCNN(nn.Module):
    """Four 3×3 convolutions, two poolings, two linear layers; ReLU, no batch norm."""

    def __init__(self, channels: tuple[int, int, int, int] = (24, 32, 48, 64), hidden: int = 64) -> None:
        super().__init__()
        a, b, c, d = channels
        self.features = nn.Sequential(
            nn.Conv2d(1, a, 3, padding=1), nn.ReLU(),
            nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(d * 7 * 7, hidden), nn.ReLU(), nn.Dropout(0.3),
            nn.Linear(hidden, len(CLASSES)),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))


def build() -> FashionCNN:
    """The network with fresh weights, in training mode."""
    return FashionCNN()


def load(weights: Path = WEIGHTS) -> FashionCNN:
    """The trained network in eval mode."""
    model = build()
    model.load_state_dict(load_file(weights))
    return model.eval()
