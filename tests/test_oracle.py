"""Torch-Pruning's dependency graph as an oracle: what must leave together when one unit goes, index by index."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

from architectures import ARCHITECTURES
from helpers import coupled
from secateur.types import Group

tp = pytest.importorskip("torch_pruning")

ROWS = (
    "mlp_relu mlp_residual cnn cnn_batch_norm cnn_prelu cnn_adaptive_pool cnn_view conv1d conv3d vgg_batch_norm "
    "resnet_basic resnet_bottleneck resnet_preactivation resnet_inplace mobilenet densenet spatial_pyramid "
    "squeeze_excite_conv unet_transposed unet_nearest product_of_branches stack_mean cnn_mean_pool two_outputs siamese"
).split()

# Where Torch-Pruning says something else, and why we do.
DIFFERS: dict[str, str] = {}

Part = tuple[str, str, tuple[int, ...]]  # layer, "out" or "in", indices


def ours(group: Group, unit: int) -> set[Part]:
    parts = set()
    for slot in group.slots:
        if slot.tensor.endswith(".weight"):
            side = "in" if slot.role == "consumer" else "out"
            parts.add((slot.tensor.removesuffix(".weight"), side, tuple(slot.positions[unit].tolist())))
    return parts


class Oracle:
    def __init__(self, name: str) -> None:
        self.model = ARCHITECTURES[name].build()
        self.names = {module: path for path, module in self.model.named_modules()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.graph = tp.DependencyGraph().build_dependency(self.model, ARCHITECTURES[name].example())

    def __call__(self, layer: str, indices: list[int]) -> set[Part]:
        """What leaves with the outputs `indices` of `layer`."""
        module = self.model.get_submodule(layer)
        prune: Any = tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
        parts: dict[tuple[str, str], set[int]] = {}
        for dependency, found in self.graph.get_pruning_group(module, prune, idxs=indices):
            target = dependency.target.module
            if target not in self.names:  # a concat, a split, a flatten
                continue
            depthwise = isinstance(target, nn.modules.conv._ConvNd) and target.groups == target.in_channels > 1
            out = self.graph.is_out_channel_pruning_fn(dependency.handler) or depthwise
            parts.setdefault((self.names[target], "out" if out else "in"), set()).update(map(int, found))
        return {(name, side, tuple(sorted(found))) for (name, side), found in parts.items()}


@pytest.mark.parametrize("name", ROWS)
def test_same_groups_as_torch_pruning(name: str) -> None:
    oracle = Oracle(name)
    for group in coupled(name)[1].prunable:
        base = next(slot for slot in group.having("producer") if slot.tensor.endswith(".weight"))
        for unit in {0, group.units // 2, group.units - 1}:
            wanted = oracle(base.tensor.removesuffix(".weight"), base.positions[unit].tolist())
            assert ours(group, unit) == wanted, (group.name, unit)


def test_the_oracle_can_disagree() -> None:
    """The comparison sees another index, so that agreement means something."""
    oracle, (first, *_) = Oracle("cnn_view"), coupled("cnn_view")[1].prunable
    assert ours(first, 0) == oracle("conv1", [0]) != oracle("conv1", [1])
    assert isinstance(torch.__version__, str)
