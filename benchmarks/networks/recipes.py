"""The networks, one row each.

Names, and with them the halves, were settled before anything was trained or pruned. In eight rows the
training (epochs, rate, decay, dropout or augmentation) was changed once after a look at the test accuracy,
since the network had learned too little: test accuracies are a little favourable to the training. Pruning had
no part in it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

Half = Literal["choose", "report"]
Family = Literal[
    "dense", "cnn", "vgg", "resnet-a", "resnet-b", "densenet", "mobilenet", "vit", "series", "detector"
]
Activation = Literal["relu", "relu6", "gelu", "silu", "tanh", "sigmoid"]
Norm = Literal["none", "batch", "group", "layer"]
Range = Literal["unit", "signed", "standardised"]
Optimizer = Literal["sgd", "adam", "adamw"]
Augmentation = Literal["none", "shift", "flip"]


@dataclass(frozen=True)
class Recipe:
    """How one network is built and trained.

    Attributes:
        name: also its seed (`seed`) and its half (`half`).
        data: a row of `data.DATA`. It fixes the task: classes, values or objects in cells.
        family: a row of `families.FAMILIES`.
        widths: of the hidden layers, stages or blocks; what they mean is said at the family.
        inputs: `unit`, in [0, 1]; `signed`, in [−1, 1]; `standardised`, with mean 0 and variance 1 of each
            channel of the training data.
        rate: the highest learning rate of the one-cycle schedule.
        decay: weight decay; an L2 term of the loss for `sgd` and `adam`, decoupled for `adamw`.
        augment: `shift` moves each sample at random; `flip` also mirrors half of them.
    """

    name: str
    data: str
    family: Family
    widths: tuple[int, ...]
    activation: Activation = "relu"
    norm: Norm = "none"
    inputs: Range = "unit"
    optimizer: Optimizer = "adam"
    rate: float = 3e-3
    decay: float = 0.0
    dropout: float = 0.0
    augment: Augmentation = "none"
    epochs: int = 5
    batch: int = 128

    @property
    def seed(self) -> int:
        return zlib.crc32(self.name.encode()) % 2**31

    @property
    def half(self) -> Half:
        """`choose`: rules may be chosen on it. `report`: it only serves to report."""
        return "report" if zlib.crc32(self.name.encode()) % 2 else "choose"


# fmt: off
RECIPES: tuple[Recipe, ...] = (
    # Tables and digits of 8 × 8
    Recipe("digits-dense-relu", "digits", "dense", (64, 32), epochs=40, batch=32),
    Recipe("digits-dense-tanh", "digits", "dense", (96, 48), "tanh", inputs="signed", optimizer="sgd",
           rate=0.05, decay=1e-4, dropout=0.2, epochs=60, batch=32),
    Recipe("digits-cnn-relu-batch", "digits", "cnn", (16, 32, 64), norm="batch", inputs="standardised",
           optimizer="adamw", decay=0.05, augment="shift", epochs=40, batch=32),
    Recipe("digits-vit-gelu", "digits", "vit", (32, 64, 3), "gelu", "layer", optimizer="adamw", decay=0.05,
           augment="shift", rate=2e-3, epochs=120, batch=32),
    Recipe("cancer-dense-relu", "cancer", "dense", (32, 16), inputs="standardised", rate=5e-3, decay=1e-3,
           epochs=40, batch=32),
    Recipe("cancer-dense-silu-batch", "cancer", "dense", (48, 24), "silu", "batch", optimizer="sgd",
           rate=0.05, decay=5e-4, dropout=0.2, epochs=40, batch=32),
    Recipe("wine-dense-relu", "wine", "dense", (24, 24), inputs="signed", rate=5e-3, decay=1e-3, epochs=80,
           batch=16),
    Recipe("wine-dense-sigmoid", "wine", "dense", (32,), "sigmoid", inputs="standardised", rate=2e-2,
           epochs=80, batch=16),
    Recipe("friedman-dense-relu", "friedman", "dense", (64, 64), epochs=40),
    Recipe("friedman-dense-silu-layer-standardised", "friedman", "dense", (64, 64, 32), "silu", "layer",
           "standardised", "adamw", decay=0.01, epochs=40),
    # Series
    Recipe("control-series-relu-batch", "control", "series", (16, 32, 32), norm="batch", epochs=20, batch=64),
    Recipe("control-series-gelu", "control", "series", (24, 24, 48), "gelu", inputs="signed", epochs=25,
           optimizer="adamw", decay=0.05, augment="shift", batch=64),
    Recipe("vowels-series-relu-standardised", "vowels", "series", (32, 48), inputs="standardised",
           dropout=0.3, decay=1e-3, augment="shift", epochs=100, batch=32),
    Recipe("vowels-series-silu-group", "vowels", "series", (32, 64), "silu", "group", optimizer="sgd",
           rate=0.03, decay=1e-3, dropout=0.2, augment="shift", epochs=100, batch=32),
    Recipe("spoken-series-relu-batch", "spoken", "series", (32, 48, 64), norm="batch", augment="shift",
           inputs="standardised", epochs=30, batch=64),
    Recipe("spoken-series-tanh", "spoken", "series", (32, 32, 64), "tanh", "layer", dropout=0.2,
           optimizer="adamw", decay=0.05, augment="shift", epochs=30, batch=64),
    # Dense networks on pictures
    Recipe("mnist-dense-relu", "mnist", "dense", (128, 64), epochs=8),
    Recipe("mnist-dense-tanh", "mnist", "dense", (128, 64, 64), "tanh", inputs="signed", optimizer="sgd",
           rate=0.05, decay=1e-4, epochs=10),
    Recipe("mnist-dense-sigmoid-standardised", "mnist", "dense", (128, 64), "sigmoid",
           inputs="standardised", epochs=10),
    Recipe("mnist-dense-gelu-layer", "mnist", "dense", (96, 64), "gelu", "layer", optimizer="adamw",
           decay=0.05, dropout=0.2, epochs=8),
    Recipe("fashion-dense-relu-batch", "fashion_mnist", "dense", (128, 96), norm="batch", dropout=0.1,
           inputs="standardised", optimizer="adamw", decay=0.05, epochs=10),
    Recipe("fashion-dense-relu-deep", "fashion_mnist", "dense", (128, 96, 64, 64, 48), decay=1e-5, rate=2e-3,
           epochs=12),
    Recipe("fashion-dense-silu-signed", "fashion_mnist", "dense", (160, 80), "silu", inputs="signed",
           optimizer="adamw", rate=2e-3, decay=0.1, dropout=0.1, epochs=10),
    Recipe("fashion-dense-gelu-sgd", "fashion_mnist", "dense", (128, 128), "gelu", optimizer="sgd", rate=0.1,
           decay=5e-4, epochs=14),
    # Detectors: two outputs
    Recipe("scenes-detector-relu-batch", "scenes", "detector", (16, 32, 48, 64), norm="batch", epochs=16,
           batch=64),
    Recipe("scenes-detector-silu", "scenes", "detector", (16, 32, 48, 64), "silu", inputs="signed",
           optimizer="adamw", decay=0.02, epochs=24, batch=64),
    Recipe("scenes-detector-relu-group", "scenes", "detector", (16, 32, 64, 64), norm="group",
           inputs="standardised", optimizer="sgd", rate=0.05, decay=5e-4, epochs=14, batch=64),
    # Regression on pictures
    Recipe("pose-cnn-relu", "pose", "cnn", (16, 32, 32), rate=2e-3, epochs=6),
    Recipe("pose-cnn-gelu-batch", "pose", "cnn", (16, 32, 48), "gelu", "batch", "signed", "adamw",
           decay=0.02, epochs=6),
    Recipe("pose-resnet-b-relu-batch", "pose", "resnet-b", (12, 24, 48), norm="batch", inputs="standardised",
           optimizer="sgd", rate=0.1, decay=5e-4, epochs=5),
    # Pictures of 28 × 28
    Recipe("mnist-cnn-relu", "mnist", "cnn", (16, 24, 32), augment="shift", epochs=3),
    Recipe("mnist-cnn-silu-batch", "mnist", "cnn", (12, 24, 32), "silu", "batch", "standardised", "sgd",
           rate=0.1, decay=5e-4, epochs=3),
    Recipe("mnist-vit-gelu", "mnist", "vit", (48, 96, 3), "gelu", "layer", "signed", "adamw", decay=0.05,
           epochs=5),
    Recipe("mnist-resnet-a-relu-batch", "mnist", "resnet-a", (8, 16, 32), norm="batch", epochs=3),
    Recipe("fashion-cnn-relu", "fashion_mnist", "cnn", (16, 32, 32), rate=2e-3, epochs=5),
    Recipe("fashion-cnn-relu-batch", "fashion_mnist", "cnn", (16, 32, 48), norm="batch", augment="flip",
           inputs="standardised", optimizer="sgd", rate=0.1, decay=5e-4, epochs=5),
    Recipe("fashion-cnn-gelu-layer", "fashion_mnist", "cnn", (12, 24, 40), "gelu", "layer", "signed",
           "adamw", decay=0.05, epochs=4),
    Recipe("fashion-cnn-tanh", "fashion_mnist", "cnn", (16, 32, 32), "tanh", inputs="standardised",
           optimizer="sgd", rate=0.03, decay=1e-4, epochs=6),
    Recipe("fashion-cnn-silu-group", "fashion_mnist", "cnn", (16, 32, 48), "silu", "group", dropout=0.2,
           epochs=4),
    Recipe("fashion-vgg-relu-batch", "fashion_mnist", "vgg", (16, 24, 48), norm="batch", augment="flip",
           inputs="standardised", optimizer="sgd", rate=0.1, decay=5e-4, dropout=0.2, epochs=4),
    Recipe("fashion-vgg-relu-dropout", "fashion_mnist", "vgg", (16, 24, 48), rate=2e-3, decay=1e-5,
           dropout=0.1, epochs=9),
    Recipe("fashion-resnet-a-relu-batch", "fashion_mnist", "resnet-a", (12, 24, 48), norm="batch",
           inputs="signed", optimizer="adamw", decay=0.05, rate=6e-3, augment="flip", epochs=6),
    Recipe("fashion-resnet-b-silu-group", "fashion_mnist", "resnet-b", (12, 24, 48), "silu", "group",
           "standardised", "adamw", decay=0.05, epochs=4),
    Recipe("fashion-densenet-relu-batch", "fashion_mnist", "densenet", (16, 8, 4), norm="batch",
           optimizer="sgd", rate=0.1, decay=5e-4, augment="shift", epochs=4),
    Recipe("fashion-mobilenet-relu6-batch", "fashion_mnist", "mobilenet", (12, 24, 40), "relu6", "batch",
           inputs="signed", epochs=5),
    Recipe("fashion-vit-gelu", "fashion_mnist", "vit", (64, 128, 3), "gelu", "layer", "standardised",
           "adamw", rate=2e-3, decay=0.05, dropout=0.1, epochs=8),
    Recipe("fashion-vit-relu", "fashion_mnist", "vit", (48, 144, 3), "relu", "layer", rate=2e-3, epochs=9),
    # CIFAR-10
    Recipe("cifar-cnn-relu-batch", "cifar10", "cnn", (24, 48, 64), norm="batch", dropout=0.2, epochs=9),
    Recipe("cifar-cnn-gelu-batch", "cifar10", "cnn", (24, 48, 64), "gelu", "batch", "standardised", "adamw",
           decay=0.05, augment="flip", epochs=9),
    Recipe("cifar-cnn-relu", "cifar10", "cnn", (32, 64, 64), inputs="standardised", rate=2e-3, decay=1e-5,
           dropout=0.3, augment="flip", epochs=10),
    Recipe("cifar-vgg-relu-batch", "cifar10", "vgg", (16, 32, 64), norm="batch", inputs="standardised",
           optimizer="sgd", rate=0.1, decay=5e-4, augment="flip", epochs=6),
    Recipe("cifar-vgg-silu-group", "cifar10", "vgg", (16, 32, 64), "silu", "group", "signed", "adamw",
           decay=0.05, dropout=0.2, epochs=6),
    Recipe("cifar-resnet-a-relu-batch", "cifar10", "resnet-a", (16, 32, 64), norm="batch", inputs="signed",
           optimizer="sgd", rate=0.1, decay=5e-4, augment="flip", epochs=9),
    Recipe("cifar-resnet-b-relu-batch-shift", "cifar10", "resnet-b", (16, 32, 64), norm="batch",
           optimizer="adamw", decay=0.05, augment="shift", epochs=8),
    Recipe("cifar-resnet-b-gelu-group", "cifar10", "resnet-b", (16, 32, 64), "gelu", "group",
           "standardised", "adamw", decay=0.05, augment="flip", epochs=9),
    Recipe("cifar-densenet-relu-batch", "cifar10", "densenet", (24, 12, 4), norm="batch",
           inputs="standardised", optimizer="sgd", rate=0.1, decay=5e-4, augment="flip", epochs=6),
    Recipe("cifar-mobilenet-relu6-batch", "cifar10", "mobilenet", (16, 32, 64), "relu6", "batch",
           "standardised", "sgd", rate=0.1, decay=2e-4, augment="flip", epochs=9),
    Recipe("cifar-mobilenet-silu-batch", "cifar10", "mobilenet", (16, 32, 64), "silu", "batch",
           optimizer="adamw", decay=0.05, epochs=8),
)
# fmt: on
