"""Torch-Pruning's dependency graph as an oracle: what must leave together when one unit goes, index by
index.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from torch import nn

from architectures import ARCHITECTURES
from helpers import coupled
from secateur.graph.widths import not_widths
from secateur.types import Group

tp = pytest.importorskip("torch_pruning")

AGREES = (
    "mlp_relu mlp_residual highway tied_linear swiglu swiglu_fused cnn cnn_batch_norm cnn_instance_norm "
    "cnn_group_norm "
    "cnn_adaptive_pool cnn_view cnn_mean_pool cnn_baked_sizes conv1d conv3d vgg_batch_norm resnet_basic "
    "resnet_bottleneck resnet_preactivation resnet_inplace resnext mobilenet convnext densenet "
    "spatial_pyramid "
    "squeeze_excite_conv squeeze_excite_linear unet_transposed unet_nearest product_of_branches stack_mean "
    "decoder "
    "attention_fused two_outputs siamese"
).split()

# Where Torch-Pruning 1.6 says something else, and why we do; test_surgery.py shows that our groups can be
# cut.
DIFFERS = {
    "cnn_prelu": "it lists a PReLU with one slope for all channels, of which nothing is removed",
    "depthwise_multiplier": "it takes a convolution of two outputs a channel for a plain depthwise one",
    "yolo_c2f": "it goes wrong where a split is concatenated with what was made from it: indices beyond the layer",
    "shufflenet": "it loses the offsets of a channel shuffle: indices beyond the layer",
    "channel_slice": "it joins layers across a slice at wrong offsets",
    "super_resolution": "it does not divide the channels by what a pixel shuffle takes up",
    "spatial_attention": "it removes the one channel of a gate that is broadcast over all others",
    "two_inputs": "it joins a table's columns with an image's flattened channels at wrong offsets",
}

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
        prune: Any = (
            tp.prune_linear_out_channels if isinstance(module, nn.Linear) else tp.prune_conv_out_channels
        )
        parts: dict[tuple[str, str], set[int]] = {}
        for dependency, found in self.graph.get_pruning_group(module, prune, idxs=indices):
            target = dependency.target.module
            if target not in self.names:  # a concat, a split, a flatten
                continue
            depthwise = (
                isinstance(target, nn.modules.conv._ConvNd) and target.groups == target.in_channels > 1
            )
            out = self.graph.is_out_channel_pruning_fn(dependency.handler) or depthwise
            columns = target.weight.shape[1] if isinstance(target, nn.modules.conv._ConvNd) and not out else 0
            indices = (
                {int(i) % columns if target.groups > 1 else int(i) for i in found} if columns else set(found)
            )
            parts.setdefault((self.names[target], "out" if out else "in"), set()).update(indices)
        return {(name, side, tuple(sorted(found))) for (name, side), found in parts.items()}


def disagreements(name: str) -> list[tuple[str, int]]:
    """The (group, unit)s of which Torch-Pruning says something else."""
    oracle, found = Oracle(name), []
    for group in not_widths(coupled(name)[1].prunable):
        base = next(slot for slot in group.having("producer") if slot.tensor.endswith(".weight"))
        for unit in sorted({0, group.units // 2, group.units - 1}):
            layer, indices = base.tensor.removesuffix(".weight"), base.positions[unit].tolist()
            if ours(group, unit) != oracle(layer, indices):
                found.append((group.name, unit))
    return found


@pytest.mark.sweep
@pytest.mark.parametrize("name", AGREES)
def test_same_groups_as_torch_pruning(name: str) -> None:
    assert not disagreements(name)


@pytest.mark.parametrize("name", DIFFERS)
def test_known_differences(name: str) -> None:
    """Once Torch-Pruning agrees, the row moves up."""
    assert disagreements(name)
