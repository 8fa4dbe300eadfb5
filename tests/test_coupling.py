"""Coupling: which units must leave together, where they stand, and what is pinned and why.

The tables are worked out by hand from the networks in `architectures.py`. Their notation, one group a line:

    name units: what makes the units and what they pass through > what reads them

`lin(x)` is x.weight[0] and x.bias[0]; `bn(x)` the four tensors of a batch norm on the way (`~`); ×n where a
unit owns n indices.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from architectures import ARCHITECTURES
from helpers import coupled
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.interpret import run
from secateur.graph.labels import FIXED, Labels, compacted, compressed, fixed, varying_axes
from secateur.graph.widths import is_width, not_widths
from secateur.types import Group, Slot

PRUNABLE: dict[str, str] = {
    "mlp_relu": """
        0 20: lin(0) > 2.weight[1]
        2 14: lin(2) > 4.weight[1]
        4 9: lin(4) > 6.weight[1]
    """,
    "mlp_residual": """
        stem 16: lin(stem) lin(blocks.0.2) lin(blocks.1.2) > blocks.0.0.weight[1] blocks.1.0.weight[1] head.weight[1]
        blocks.0.0 22: lin(blocks.0.0) > blocks.0.2.weight[1]
        blocks.1.0 13: lin(blocks.1.0) > blocks.1.2.weight[1]
    """,
    "mlp_mixer": """
        blocks.0.token_mlp.0 15: lin(blocks.0.token_mlp.0) > blocks.0.token_mlp.2.weight[1]
        blocks.0.channel_mlp.0 22: lin(blocks.0.channel_mlp.0) > blocks.0.channel_mlp.2.weight[1]
        blocks.1.token_mlp.0 11: lin(blocks.1.token_mlp.0) > blocks.1.token_mlp.2.weight[1]
        blocks.1.channel_mlp.0 18: lin(blocks.1.channel_mlp.0) > blocks.1.channel_mlp.2.weight[1]
    """,
    "tied_linear": """
        stem 12: lin(stem) lin(shared) > shared.weight[1] head.weight[1]
    """,
    "highway": """
        stem 14: lin(stem) lin(gate.0) lin(transform.0) lin(gate.1) lin(transform.1) > gate.0.weight[1]
                 transform.0.weight[1] gate.1.weight[1] transform.1.weight[1] head.weight[1]
    """,
    "bare_parameters": """
        w1 17: w1[1] ~b1[0] > w2[0]
        w2 11: w2[1] ~b2[0] > head.weight[1]
    """,
    "einsum_linear": """
        w1 17: w1[0] > w2[0]
        w2 11: w2[1] > head.weight[1]
    """,
    "swiglu": """
        inner.gate 16: inner.gate.weight[0] inner.up.weight[0] > inner.down.weight[1]
    """,
    "swiglu_fused": """
        inner.gate_up 16: inner.gate_up.weight[0]×2 inner.gate_up.bias[0]×2 > inner.down.weight[1]
    """,
    "cnn_group_norm": """
        0 2: lin(0)×4 ~1.weight[0]×4 ~1.bias[0]×4 > 3.weight[1]×4
        3 2: lin(3)×6 ~4.weight[0]×6 ~4.bias[0]×6 > 7.weight[1]×6
        7 2: lin(7)×9 ~8.weight[0]×9 ~8.bias[0]×9 > 12.weight[1]×9
    """,
    "cnn_prelu": """
        0 8: lin(0) ~1.weight[0] > 2.weight[1]
        2 14: lin(2) ~3.weight[0] > 4.weight[1]
        4 9: lin(4) > 8.weight[1]
    """,
    "cnn_adaptive_pool": """
        0 10: lin(0) > 2.weight[1]
        2 6: lin(2) > 6.weight[1]×16
        6 15: lin(6) > 8.weight[1]
    """,
    "cnn_view": """
        conv1 8: lin(conv1) > conv2.weight[1]
        conv2 11: lin(conv2) > fc1.weight[1]×4
        fc1 16: lin(fc1) > fc2.weight[1]
    """,
    "conv1d": """
        0 10: lin(0) bn(1) > 4.weight[1]
        4 14: lin(4) > 8.weight[1]×3
        8 9: lin(8) > 10.weight[1]
    """,
    "vgg_batch_norm": """
        0.0 8: 0.0.weight[0] bn(0.1) > 1.0.weight[1]
        1.0 10: 1.0.weight[0] bn(1.1) > 3.0.weight[1]
        3.0 16: 3.0.weight[0] bn(3.1) > 6.weight[1]×9
        6 24: lin(6) > 9.weight[1]
        9 18: lin(9) > 12.weight[1]
    """,
    "resnet_basic": """
        0.0 8: 0.0.weight[0] bn(0.1) 1.conv2.0.weight[0] bn(1.conv2.1)
               > 1.conv1.0.weight[1] 2.conv1.0.weight[1] 2.shortcut.0.weight[1]
        1.conv1.0 12: 1.conv1.0.weight[0] bn(1.conv1.1) > 1.conv2.0.weight[1]
        2.conv1.0 16: 2.conv1.0.weight[0] bn(2.conv1.1) > 2.conv2.0.weight[1]
        2.conv2.0 14: 2.conv2.0.weight[0] bn(2.conv2.1) 2.shortcut.0.weight[0] bn(2.shortcut.1)
                      3.conv2.0.weight[0] bn(3.conv2.1) > 3.conv1.0.weight[1] 4.2.weight[1]
        3.conv1.0 20: 3.conv1.0.weight[0] bn(3.conv1.1) > 3.conv2.0.weight[1]
    """,
    "resnet_preactivation": """
        0 8: lin(0) bn(1.bn1) 1.conv2.weight[0] bn(2.bn1)
             > 1.conv1.weight[1] 2.shortcut.weight[1] 2.conv1.weight[1]
        1.conv1 12: 1.conv1.weight[0] bn(1.bn2) > 1.conv2.weight[1]
        2.shortcut 14: 2.shortcut.weight[0] 2.conv2.weight[0] bn(3.bn1) 3.conv2.weight[0] bn(4)
                       > 3.conv1.weight[1] 6.2.weight[1]
        2.conv1 10: 2.conv1.weight[0] bn(2.bn2) > 2.conv2.weight[1]
        3.conv1 9: 3.conv1.weight[0] bn(3.bn2) > 3.conv2.weight[1]
    """,
    "resnet_inplace": """
        stem.0 10: stem.0.weight[0] bn(stem.1) conv2.0.weight[0] bn(conv2.1) > conv1.0.weight[1] head.2.weight[1]
        conv1.0 14: conv1.0.weight[0] bn(conv1.1) > conv2.0.weight[1]
    """,
    "resnext": """
        0.0 8: 0.0.weight[0] bn(0.1) 1.expand.0.weight[0] bn(1.expand.1)
               > 1.reduce.0.weight[1] 2.reduce.0.weight[1] 2.shortcut.0.weight[1]
        1.reduce.0 3: 1.reduce.0.weight[0]×4 bn(1.reduce.1)×4 > 1.middle.0.weight[1]
        1.middle.0 3: 1.middle.0.weight[0]×4 bn(1.middle.1)×4 > 1.expand.0.weight[1]×4
        2.reduce.0 4: 2.reduce.0.weight[0]×4 bn(2.reduce.1)×4 > 2.middle.0.weight[1]
        2.middle.0 4: 2.middle.0.weight[0]×4 bn(2.middle.1)×4 > 2.expand.0.weight[1]×4
        2.expand.0 14: 2.expand.0.weight[0] bn(2.expand.1) 2.shortcut.0.weight[0] bn(2.shortcut.1)
                       3.expand.0.weight[0] bn(3.expand.1) > 3.reduce.0.weight[1] 4.2.weight[1]
        3.reduce.0 5: 3.reduce.0.weight[0]×4 bn(3.reduce.1)×4 > 3.middle.0.weight[1]
        3.middle.0 5: 3.middle.0.weight[0]×4 bn(3.middle.1)×4 > 3.expand.0.weight[1]×4
    """,
    "mobilenet": """
        0 8: 0.weight[0] bn(1) 3.layers.6.weight[0] bn(3.layers.7) > 3.layers.0.weight[1] 4.layers.0.weight[1]
        3.layers.0 18: 3.layers.0.weight[0] bn(3.layers.1) ~3.layers.3.weight[0] bn(3.layers.4) > 3.layers.6.weight[1]
        4.layers.0 24: 4.layers.0.weight[0] bn(4.layers.1) ~4.layers.3.weight[0] bn(4.layers.4) > 4.layers.6.weight[1]
        4.layers.6 12: 4.layers.6.weight[0] bn(4.layers.7) 5.layers.6.weight[0] bn(5.layers.7)
                       > 5.layers.0.weight[1] 6.weight[1]
        5.layers.0 20: 5.layers.0.weight[0] bn(5.layers.1) ~5.layers.3.weight[0] bn(5.layers.4) > 5.layers.6.weight[1]
        6 22: 6.weight[0] bn(7) > 9.2.weight[1]
    """,
    "depthwise_multiplier": """
        0 7: lin(0) ~2.weight[0]×2 ~2.bias[0]×2 bn(3)×2 > 5.weight[1]×2
        5 10: lin(5) > 7.2.weight[1]
    """,
    "convnext": """
        1.pwconv1 21: lin(1.pwconv1) > 1.pwconv2.weight[1]
        3.pwconv1 18: lin(3.pwconv1) > 3.pwconv2.weight[1]
    """,
    "densenet": """
        stem.0 8: stem.0.weight[0] bn(stem.1)
                  > layers.0.0.weight[1] layers.1.0.weight[1] layers.2.0.weight[1] transition.0.weight[1]
        layers.0.0 5: layers.0.0.weight[0] bn(layers.0.1)
                      > layers.1.0.weight[1] layers.2.0.weight[1] transition.0.weight[1]
        layers.1.0 6: layers.1.0.weight[0] bn(layers.1.1) > layers.2.0.weight[1] transition.0.weight[1]
        layers.2.0 7: layers.2.0.weight[0] bn(layers.2.1) > transition.0.weight[1]
        transition.0 12: transition.0.weight[0] bn(transition.1) > head.2.weight[1]
    """,
    "shufflenet": """
        0.0 3: 0.0.weight[0]×4 bn(0.1)×4 1.branch.2.0.weight[0]×2 bn(1.branch.2.1)×2 2.branch.2.0.weight[0]×2
               bn(2.branch.2.1)×2 > 1.branch.0.0.weight[1]×2 2.branch.0.0.weight[1]×2 3.0.weight[1]×4
        1.branch.0.0 6: 1.branch.0.0.weight[0] bn(1.branch.0.1) ~1.branch.1.0.weight[0] bn(1.branch.1.1)
                        > 1.branch.2.0.weight[1]
        2.branch.0.0 6: 2.branch.0.0.weight[0] bn(2.branch.0.1) ~2.branch.1.0.weight[0] bn(2.branch.1.1)
                        > 2.branch.2.0.weight[1]
        3.0 17: 3.0.weight[0] bn(3.1) > 4.2.weight[1]
    """,
    "yolo_c2f": """
        0.0 9: 0.0.weight[0] bn(0.1) > 1.cv1.0.weight[1]
        1.cv1.0 6: 1.cv1.0.weight[0]×2 bn(1.cv1.1)×2 1.blocks.0.cv2.0.weight[0] bn(1.blocks.0.cv2.1)
                   1.blocks.1.cv2.0.weight[0] bn(1.blocks.1.cv2.1)
                   > 1.blocks.0.cv1.0.weight[1] 1.blocks.1.cv1.0.weight[1] 1.cv2.0.weight[1]×4
        1.blocks.0.cv1.0 9: 1.blocks.0.cv1.0.weight[0] bn(1.blocks.0.cv1.1) > 1.blocks.0.cv2.0.weight[1]
        1.blocks.1.cv1.0 8: 1.blocks.1.cv1.0.weight[0] bn(1.blocks.1.cv1.1) > 1.blocks.1.cv2.0.weight[1]
        1.cv2.0 14: 1.cv2.0.weight[0] bn(1.cv2.1) > 2.2.weight[1]
    """,
    "spatial_pyramid": """
        0.0 9: 0.0.weight[0] bn(0.1) > 1.cv1.0.weight[1]
        1.cv1.0 6: 1.cv1.0.weight[0] bn(1.cv1.1) > 1.cv2.0.weight[1]×4
        1.cv2.0 14: 1.cv2.0.weight[0] bn(1.cv2.1) > 2.2.weight[1]
    """,
    "channel_slice": """
        stem.0 5: stem.0.weight[0] bn(stem.1) > partial.weight[1]
        stem.0#2 8: stem.0.weight[0] bn(stem.1) > mix.0.weight[1]
        partial 5: lin(partial) > mix.0.weight[1]
        mix.0 10: mix.0.weight[0] bn(mix.1) > head.2.weight[1]
    """,
    "stack_mean": """
        branches.0.0 11: branches.0.0.weight[0] bn(branches.0.1) branches.1.0.weight[0] bn(branches.1.1)
                         branches.2.0.weight[0] bn(branches.2.1) > head.0.0.weight[1]
        head.0.0 8: head.0.0.weight[0] bn(head.0.1) > head.1.2.weight[1]
    """,
    "product_of_branches": """
        stem.0 8: stem.0.weight[0] bn(stem.1) > left.0.weight[1] right.0.weight[1]
        left.0 13: left.0.weight[0] bn(left.1) right.0.weight[0] bn(right.1) > head.2.weight[1]
    """,
    "spatial_attention": """
        stem.0 12: stem.0.weight[0] bn(stem.1) > gate.weight[1] body.0.weight[1]
        body.0 9: body.0.weight[0] bn(body.1) > head.2.weight[1]
    """,
    "squeeze_excite_conv": """
        0.0 14: 0.0.weight[0] bn(0.1) lin(1.fc2) > 1.fc1.weight[1] 2.0.weight[1]
        1.fc1 6: lin(1.fc1) > 1.fc2.weight[1]
        2.0 10: 2.0.weight[0] bn(2.1) lin(3.fc2) > 3.fc1.weight[1] 4.2.weight[1]
        3.fc1 4: lin(3.fc1) > 3.fc2.weight[1]
    """,
    "squeeze_excite_linear": """
        0.0 14: 0.0.weight[0] bn(0.1) lin(1.fc.2) > 1.fc.0.weight[1] 2.0.weight[1]
        1.fc.0 6: lin(1.fc.0) > 1.fc.2.weight[1]
        2.0 10: 2.0.weight[0] bn(2.1) lin(3.fc.2) > 3.fc.0.weight[1] 4.2.weight[1]
        3.fc.0 4: lin(3.fc.0) > 3.fc.2.weight[1]
    """,
    "unet_transposed": """
        down1.0 8: down1.0.weight[0] bn(down1.1) > down2.0.weight[1] conv1.0.weight[1]
        down2.0 12: down2.0.weight[0] bn(down2.1) > bottom.0.weight[1] conv2.0.weight[1]
        bottom.0 18: bottom.0.weight[0] bn(bottom.1) > up2.weight[0]
        up2 12: up2.weight[1] up2.bias[0] > conv2.0.weight[1]
        conv2.0 14: conv2.0.weight[0] bn(conv2.1) > up1.weight[0]
        up1 9: up1.weight[1] up1.bias[0] > conv1.0.weight[1]
        conv1.0 10: conv1.0.weight[0] bn(conv1.1) > out.weight[1]
    """,
    "decoder": """
        fc 11: lin(fc)×16 > up.weight[0]
        up 7: up.weight[1] up.bias[0] > out.weight[1]
    """,
    "super_resolution": """
        body.0 14: lin(body.0) > body.2.weight[1]
        body.2 10: lin(body.2) > up.weight[1]
        up 6: lin(up)×4 > out.weight[1]
    """,
    "attention_fused": """
        body.attn.qkv 3: lin(body.attn.qkv)×12 > body.attn.proj.weight[1]×4
        body.mlp.0 20: lin(body.mlp.0) > body.mlp.2.weight[1]
    """,
    "attention_separate": """
        body.attn.v 11: lin(body.attn.v) > body.attn.proj.weight[1]
        body.mlp.0 20: lin(body.mlp.0) > body.mlp.2.weight[1]
    """,
    "attention_attributes": """
        body.attn.query 3: lin(body.attn.query)×5 lin(body.attn.key)×5 lin(body.attn.value)×5
                           > body.attn.out.weight[1]×5
        body.mlp.0 20: lin(body.mlp.0) > body.mlp.2.weight[1]
    """,
    "attention_grouped_query": """
        body.attn.q_proj 2: body.attn.q_proj.weight[0]×9 body.attn.k_proj.weight[0]×3 body.attn.v_proj.weight[0]×3
                            > body.attn.o_proj.weight[1]×9
        body.mlp.0 20: lin(body.mlp.0) > body.mlp.2.weight[1]
    """,
    "attention_fixed_heads": """
        stem 10: lin(stem) lin(proj) > qkv.weight[1] head.weight[1]
        qkv 4: lin(qkv)×9 > proj.weight[1]×3
    """,
    "multihead_no_weights": """
        body.attn.attention.in_proj_weight 3: body.attn.attention.in_proj_weight[0]×12
            body.attn.attention.in_proj_bias[0]×12 > body.attn.attention.out_proj.weight[1]×4
        body.mlp.0 20: lin(body.mlp.0) > body.mlp.2.weight[1]
    """,
    "vision_transformer": """
        blocks.0.attn.qkv 3: lin(blocks.0.attn.qkv)×12 > blocks.0.attn.proj.weight[1]×4
        blocks.0.mlp.0 22: lin(blocks.0.mlp.0) > blocks.0.mlp.2.weight[1]
        blocks.1.attn.qkv 3: lin(blocks.1.attn.qkv)×12 > blocks.1.attn.proj.weight[1]×4
        blocks.1.mlp.0 17: lin(blocks.1.mlp.0) > blocks.1.mlp.2.weight[1]
    """,
    "tied_embedding": """
        block.attn.q_proj 2: block.attn.q_proj.weight[0]×6 block.attn.k_proj.weight[0]×3 block.attn.v_proj.weight[0]×3
                             > block.attn.o_proj.weight[1]×6
        block.mlp.0 20: lin(block.mlp.0) > block.mlp.2.weight[1]
    """,
    "lstm": """
        fc1 14: lin(fc1) > fc2.weight[1]
    """,
    "two_inputs": """
        image.0.0 9: image.0.0.weight[0] bn(image.0.1) > image.1.0.weight[1]
        image.1.0 13: image.1.0.weight[0] bn(image.1.1) > head.0.weight[1]×4
        table.0 15: lin(table.0) > table.2.weight[1]
        table.2 8: lin(table.2) > head.0.weight[1]
        head.0 17: lin(head.0) > head.2.weight[1]
    """,
    "two_outputs": """
        backbone.0.0 10: backbone.0.0.weight[0] bn(backbone.0.1) > backbone.1.0.weight[1]
        backbone.1.0 14: backbone.1.0.weight[0] bn(backbone.1.1) > classes.2.weight[1] boxes.0.0.weight[1]
        boxes.0.0 9: boxes.0.0.weight[0] bn(boxes.0.1) > boxes.1.weight[1]
    """,
    "siamese": """
        tower.0.0 9: tower.0.0.weight[0] bn(tower.0.1) > tower.1.0.weight[1]
        tower.1.0 13: tower.1.0.weight[0] bn(tower.1.1) > head.0.weight[1]
        head.0 11: lin(head.0) > head.2.weight[1]
    """,
}

SAME_GROUPS = [
    ("mlp_relu", "mlp_sigmoid mlp_tanh mlp_gelu mlp_float16 mlp_bfloat16"),
    ("unet_transposed", ""),
    ("multihead_no_weights", "multihead_weights"),
    ("encoder_layer_pre_norm", "encoder_layer_post_norm"),
    ("lstm", "gru"),
    ("two_outputs", "dict_output"),
    ("cnn", "cnn_float16 cnn_dropout2d"),
    ("cnn_batch_norm", "cnn_bfloat16 cnn_instance_norm"),
]

PINNED = {  # group → the reason, or a telling part of it
    "mlp_relu": {"6": "an output of the model"},
    "convnext": {"0": "layer-normed", "2": "layer-normed", "4.2": "an output"},
    "swiglu": {"stem": "layer-normed by rms_norm", "head": "an output"},
    "spatial_attention": {"gate": "broadcast over other units by mul", "head.2": "an output"},
    "super_resolution": {"out": "joined with a value that cannot shrink by add"},
    "attention_separate": {
        "stem": "layer-normed",
        "head": "an output",
    },
    "encoder_layer_post_norm": {"stem": "layer-normed", "head": "an output"},
    "vision_transformer": {"patch_embed": "layer-normed", "head": "an output"},
    "tied_embedding": {"output": "layer-normed", "output#2": "shared with a layer that cannot shrink"},
    "lstm": {"conv": "recurrent layers stay whole (rnn)", "fc2": "an output"},
    "gru": {"conv": "recurrent layers stay whole (rnn)", "fc2": "an output"},
    "two_outputs": {"classes.2": "an output", "boxes.1": "an output"},
}


def parsed(text: str) -> dict[str, tuple[int, Counter[str]]]:
    """Group → (units, slots as `role tensor[axis]×width`)."""
    groups = {}
    for name, units, slots in re.findall(r"(\S+) (\d+): (.*?)(?=\s+\S+ \d+: |\s*$)", text, re.DOTALL):
        makers, _, readers = slots.partition(">")
        found = [slot for text in makers.split() for slot in expanded(text)]
        groups[name] = (
            int(units),
            Counter(found + [f"consumer {with_width(text)}" for text in readers.split()]),
        )
    return groups


def expanded(text: str) -> list[str]:
    names, _, width = text.partition("×")
    if match := re.fullmatch(r"(lin|bn)\((.*)\)", names):
        layer, name = match.groups()
        of_norm = ("weight", "bias", "running_mean", "running_var")
        slots = (
            [f"{name}.weight[0]", f"{name}.bias[0]"]
            if layer == "lin"
            else [f"{name}.{t}[0]" for t in of_norm]
        )
        role = "producer" if layer == "lin" else "through"
    else:
        slots, role = [names.removeprefix("~")], "through" if names.startswith("~") else "producer"
    return [f"{role} {slot}×{width or 1}" for slot in slots]


def with_width(text: str) -> str:
    return text if "×" in text else f"{text}×1"


def described(groups: tuple[Group, ...]) -> dict[str, tuple[int, Counter[str]]]:
    return {
        g.name: (g.units, Counter(f"{s.role} {s.tensor}[{s.axis}]×{s.positions.shape[1]}" for s in g.slots))
        for g in groups
    }


@pytest.mark.sweep
@pytest.mark.parametrize("name", PRUNABLE)
def test_prunable_groups(name: str) -> None:
    found = tuple(not_widths(coupled(name)[1].prunable))  # widths of heads: test_attention.py
    assert described(found) == parsed(PRUNABLE[name])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "others"), SAME_GROUPS, ids=[name for name, _ in SAME_GROUPS])
def test_what_does_not_matter_to_groups(name: str, others: str) -> None:
    """Activations, precision, dropout, the kind of recurrent layer, the container of the outputs."""
    groups = {(g.name, g.units) for g in coupled(name)[1].prunable}
    assert all({(g.name, g.units) for g in coupled(other)[1].prunable} == groups for other in others.split())


@pytest.mark.parametrize("name", PINNED)
def test_pinned_groups_say_why(name: str) -> None:
    pinned = {group.name: group.pinned for group in coupled(name)[1].groups if group.pinned}
    assert pinned.keys() == PINNED[name].keys()
    for group, reason in PINNED[name].items():
        assert reason in pinned[group]


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["lstm", "gru"])
def test_recurrent_weights_are_named(layer: str) -> None:
    blocked = coupled(layer)[1].blocked
    assert set(blocked) == {f"rnn.{t}_{s}_l0" for t in ("weight", "bias") for s in ("ih", "hh")}
    assert set(blocked.values()) == {"recurrent layers stay whole (rnn)"}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_groups_are_sound(name: str) -> None:
    """Units own disjoint indices, as many each, and so do the widths of heads, which cross them; prunable ones
    are made and read; the model's outputs stay whole.
    """
    graph, coupling = coupled(name)
    assert coupling.prunable
    assert len({group.name for group in coupling.groups}) == len(coupling.groups)
    owners: dict[tuple[str, int, bool], Tensor] = {}
    for group in coupling.groups:
        for slot in group.slots:
            size = graph.tensors[slot.tensor].shape[slot.axis]
            count = owners.setdefault(
                (slot.tensor, slot.axis, is_width(group)), torch.zeros(size, dtype=torch.int64)
            )
            assert slot.positions.shape[0] == group.units
            assert slot.role in ("producer", "consumer", "through")
            count.index_add_(
                0, slot.positions.reshape(-1), torch.ones(slot.positions.numel(), dtype=torch.int64)
            )
        if not group.pinned:
            assert group.units > 1 and group.having("producer") and group.having("consumer")
    assert all(int(count.max()) == 1 for count in owners.values())
    assert set(coupling.ids) >= {group.name for group in coupling.prunable}
    if any(output.shape[1] > 1 for output in run(graph, graph.example)):
        assert any("output" in group.pinned or "cannot shrink" in group.pinned for group in coupling.groups)


# --- positions ----------------------------------------------------------------------------------------------


def positions(name: str, group: str, tensor: str, axis: int) -> Tensor:
    (found,) = (g for g in coupled(name)[1].groups if g.name == group)
    (slot,) = (s for s in found.slots if (s.tensor, s.axis) == (tensor, axis))
    return slot.positions


def rows(units: int, *offsets: int, step: int = 1, width: int = 1) -> Tensor:
    """Unit u owns, for each offset, the indices offset + u·step … + width."""
    return torch.tensor([[o + u * step + j for o in offsets for j in range(width)] for u in range(units)])


POSITIONS = {
    "mlp_rows": ("mlp_relu", "2", "2.weight", 0, rows(14, 0)),
    "flatten_16_columns": ("cnn_adaptive_pool", "2", "6.weight", 1, rows(6, 0, step=16, width=16)),
    "view_4_columns": ("cnn_view", "conv2", "fc1.weight", 1, rows(11, 0, step=4, width=4)),
    "baked_view_4_columns": ("cnn_baked_sizes", "conv2", "fc1.weight", 1, rows(16, 0, step=4, width=4)),
    "flatten_signal": ("conv1d", "4", "8.weight", 1, rows(14, 0, step=3, width=3)),
    "chunk_halves": ("swiglu_fused", "inner.gate_up", "inner.gate_up.weight", 0, rows(16, 0, 16)),
    "norm_groups": ("cnn_group_norm", "3", "3.weight", 0, rows(2, 0, step=6, width=6)),
    "norm_groups_read": ("cnn_group_norm", "7", "12.weight", 1, rows(2, 0, step=9, width=9)),
    "grouped_made": ("resnext", "1.reduce.0", "1.reduce.0.weight", 0, rows(3, 0, 3, 6, 9)),
    "grouped_read": ("resnext", "1.reduce.0", "1.middle.0.weight", 1, rows(3, 0)),
    "grouped_out": ("resnext", "2.middle.0", "2.expand.0.weight", 1, rows(4, 0, 4, 8, 12)),
    "depthwise_pairs": ("depthwise_multiplier", "0", "2.weight", 0, rows(7, 0, step=2, width=2)),
    "depthwise_pairs_read": ("depthwise_multiplier", "0", "5.weight", 1, rows(7, 0, step=2, width=2)),
    "dense_first": ("densenet", "stem.0", "transition.0.weight", 1, rows(8, 0)),
    "dense_second": ("densenet", "layers.0.0", "transition.0.weight", 1, rows(5, 8)),
    "dense_third": ("densenet", "layers.1.0", "transition.0.weight", 1, rows(6, 13)),
    "dense_fourth": ("densenet", "layers.2.0", "transition.0.weight", 1, rows(7, 19)),
    "dense_inner": ("densenet", "layers.0.0", "layers.2.0.weight", 1, rows(5, 8)),
    "shuffle_stem": ("shufflenet", "0.0", "0.0.weight", 0, rows(3, 0, 3, 6, 9)),
    "shuffle_branch": ("shufflenet", "0.0", "1.branch.2.0.weight", 0, rows(3, 0, 3)),
    "c2f_halves": ("yolo_c2f", "1.cv1.0", "1.cv1.0.weight", 0, rows(6, 0, 6)),
    "c2f_concat": ("yolo_c2f", "1.cv1.0", "1.cv2.0.weight", 1, rows(6, 0, 6, 12, 18)),
    "pyramid_concat": ("spatial_pyramid", "1.cv1.0", "1.cv2.0.weight", 1, rows(6, 0, 6, 12, 18)),
    "slice_first": ("channel_slice", "stem.0", "stem.0.weight", 0, rows(5, 0)),
    "slice_rest": ("channel_slice", "stem.0#2", "mix.0.weight", 1, rows(8, 5)),
    "skip": ("unet_transposed", "down2.0", "conv2.0.weight", 1, rows(12, 0)),
    "beside_skip": ("unet_transposed", "up2", "conv2.0.weight", 1, rows(12, 12)),
    "beside_outer_skip": ("unet_nearest", "up1.1", "conv1.0.weight", 1, rows(9, 8)),
    "unflattened": ("decoder", "fc", "fc.weight", 0, rows(11, 0, step=16, width=16)),
    "pixel_shuffle": ("super_resolution", "up", "up.weight", 0, rows(6, 0, step=4, width=4)),
    "qkv_heads": ("attention_fused", "body.attn.qkv", "body.attn.qkv.weight", 0, rows(3, 0, 12, 24, step=4, width=4)),
    "qkv_bias": ("attention_fused", "body.attn.qkv", "body.attn.qkv.bias", 0, rows(3, 0, 12, 24, step=4, width=4)),
    "heads_read": ("attention_fused", "body.attn.qkv", "body.attn.proj.weight", 1, rows(3, 0, step=4, width=4)),
    "split_qkv_heads": ("attention_fixed_heads", "qkv", "qkv.weight", 0, rows(4, 0, 12, 24, step=3, width=3)),
    "separate_heads": (
        "attention_attributes", "body.attn.query", "body.attn.key.weight", 0, rows(3, 0, step=5, width=5)
    ),
    "gqa_queries": (
        "attention_grouped_query", "body.attn.q_proj", "body.attn.q_proj.weight", 0, rows(2, 0, step=9, width=9)
    ),
    "gqa_keys": (
        "attention_grouped_query", "body.attn.q_proj", "body.attn.k_proj.weight", 0, rows(2, 0, step=3, width=3)
    ),
    "gqa_read": (
        "attention_grouped_query", "body.attn.q_proj", "body.attn.o_proj.weight", 1, rows(2, 0, step=9, width=9)
    ),
    "multihead": (
        "multihead_weights", "body.attn.attention.in_proj_weight", "body.attn.attention.in_proj_weight", 0,
        rows(3, 0, 12, 24, step=4, width=4),
    ),
    "image_part": ("two_inputs", "image.1.0", "head.0.weight", 1, rows(13, 0, step=4, width=4)),
    "table_part": ("two_inputs", "table.2", "head.0.weight", 1, rows(8, 52)),
}  # fmt: skip


@pytest.mark.parametrize(("name", "group", "tensor", "axis", "wanted"), POSITIONS.values(), ids=POSITIONS)
def test_positions(name: str, group: str, tensor: str, axis: int, wanted: Tensor) -> None:
    assert positions(name, group, tensor, axis).tolist() == wanted.tolist()


# --- ops without a rule, and parameters used in odd ways ----------------------------------------------------


class Between(nn.Module):
    """Two linear layers with `between` amid them."""

    def __init__(self, between, dim: int = 8) -> None:
        super().__init__()
        self.first, self.second, self.between = nn.Linear(5, dim), nn.Linear(dim, 3), between
        self.scale = nn.Parameter(torch.randn(dim))
        self.temperature = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x)))


def between(change, dim: int = 8) -> Coupling:
    return couple(capture(Between(change, dim).eval(), torch.randn(2, 5)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m, x: x.sort(dim=1).values, "no coupling rule for aten.sort"),
        (lambda m, x: F.softmax(x, dim=1), "mixed along its axis by softmax"),
        (lambda m, x: x.cumsum(1), "mixed along its axis by cumsum"),
        (lambda m, x: x[:, ::1][:, [0, 1, 2, 3, 4, 5, 6, 7]], "indexed by index"),
        (lambda m, x: x.roll(1, 1), "picked by index in roll"),
        (lambda m, x: x - x.mean(1, keepdim=True), "reduced over its units by mean"),
        (lambda m, x: x + torch.arange(8.0), "joined with a value that cannot shrink by add"),
        (lambda m, x: x + x.new_zeros(8), "joined with a value that cannot shrink by add"),
        (lambda m, x: x.narrow(1, 0, 8), "picked by index in narrow"),
    ],
    ids="sort softmax cumsum index roll mean constant new_zeros narrow".split(),
)
def test_what_mixes_units_pins_them(change, reason: str) -> None:
    first = between(change).groups[0]
    assert first.name == "first" and reason in first.pinned


@pytest.mark.parametrize(
    "change",
    [
        lambda m, x: x * m.scale,
        lambda m, x: x * m.temperature,
        lambda m, x: x * m.temperature.exp(),
        lambda m, x: x * torch.tensor(0.5),
        lambda m, x: x * 2 + 1,
        lambda m, x: torch.stack([x, x.relu()]).mean(0),
        lambda m, x: torch.where(x > 0, x, 0.1 * x),
        lambda m, x: x.flip(1),
        lambda m, x: x.unflatten(1, (4, 2)).flatten(1),
        lambda m, x: torch.where((x > 0).unflatten(1, (4, 2)).flatten(1), x, 0.1 * x),
        lambda m, x: (x > 0).flip(1) * x.flip(1),
        lambda m, x: x + x.new_zeros(1),
        lambda m, x: torch.stack([x, -x]).narrow(0, 1, 1).squeeze(0),
    ],
    ids=(
        "scale scalar scalar_exp scalar_constant numbers stack where flip unflatten moved_mask flipped_mask "
        "new_zeros narrow"
    ).split(),
)
def test_what_keeps_units_apart_leaves_them_free(change) -> None:
    (first,) = between(change).prunable
    assert first.name == "first"


def test_units_of_a_mask_are_not_its_truth_values() -> None:
    """Of pairs that stand in one row of an intermediate value, both units leave."""
    (group,) = between(lambda m, x: torch.where((x > 0).unflatten(1, (4, 2)).flatten(1), x, 0.1 * x)).prunable
    assert group.units == 4


def test_scale_stands_on_the_way() -> None:
    (group,) = between(lambda m, x: x * m.scale).prunable
    assert ("scale", 0, "through") in {(s.tensor, s.axis, s.role) for s in group.slots}


def test_a_layer_of_one_unit_cannot_shrink() -> None:
    assert not between(lambda m, x: x.relu(), dim=1).prunable


def test_a_layer_that_nobody_reads_is_pinned() -> None:
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 6), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(x) + self.first(x).sum(1, keepdim=True)

    groups = {g.name: g.pinned for g in couple(capture(Unread().eval(), torch.randn(2, 4))).groups}
    assert "reduced over its units" in groups["first"]


class Tied(nn.Module):
    """Token ids in; the embedding's weight is used again, so that its rows are made by a layer and read by
    the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(11, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.mix(self.embed(ids).mean(1)).relu()
        return self.head(F.linear(x, self.embed.weight).relu())


def test_a_vocabulary_stays_whole() -> None:
    groups = couple(capture(Tied().eval(), torch.randint(11, (2, 7)))).groups
    rows_of_embedding = [g for g in groups if any((s.tensor, s.axis) == ("embed.weight", 0) for s in g.slots)]
    assert all(group.pinned for group in rows_of_embedding)


def test_a_shared_weight_that_reads_the_input_keeps_its_columns() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.between, self.head = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(6, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(self.between(self.conv(x).relu())).relu())

    groups = couple(capture(Shared().eval(), torch.randn(2, 4, 5, 5))).groups
    assert [(g.name, g.units) for g in groups if not g.pinned] == [("conv", 6)]


# --- labels -------------------------------------------------------------------------------------------------


def test_fresh_labels_are_never_given_out_twice() -> None:
    labels = Labels()
    assert labels.fresh(3).tolist() == [0, 1, 2]
    assert labels.fresh(2).tolist() == [3, 4]
    assert labels.classes().tolist() == [0, 1, 2, 3, 4]


def test_equal_labels_have_the_smallest_as_their_class() -> None:
    labels = Labels()
    a, b, c = labels.fresh(3), labels.fresh(3), labels.fresh(3)
    labels.equate(b, c.flip(0), "")
    labels.equate(c, a, "")
    assert labels.classes().tolist() == [0, 1, 2, 2, 1, 0, 0, 1, 2]
    assert not labels.pins


def test_equate_broadcasts() -> None:
    labels = Labels()
    a, b = labels.fresh(4), labels.fresh(1)
    labels.equate(a.reshape(2, 2), b, "")
    assert labels.classes().tolist() == [0] * 5


def test_equate_pins_what_meets_no_unit() -> None:
    labels = Labels()
    a = labels.fresh(3)
    labels.equate(a, torch.tensor([FIXED, 1, FIXED]), "beside a constant")
    ((pinned, reason),) = labels.pins
    assert (pinned.tolist(), reason) == ([0, 2], "beside a constant")
    assert labels.classes().tolist() == [0, 1, 2]


def test_pin_names_each_label_once_and_never_the_fixed() -> None:
    labels = Labels()
    a = labels.fresh(2)
    labels.pin(torch.stack([a, a]).reshape(-1), "twice")
    labels.pin(fixed([3]), "no unit")
    labels.pin(None, "nothing")
    assert [(pinned.tolist(), reason) for pinned, reason in labels.pins] == [([0, 1], "twice")]


def test_uniform_joins_along_axes() -> None:
    labels = Labels()
    grid = labels.fresh(6).reshape(2, 3)  # units along both axes
    steady = labels.uniform(grid, [0], "mixed")
    assert labels.classes().tolist() == [0, 1, 2, 0, 1, 2]
    assert steady.tolist() == [[0, 1, 2]] * 2 and steady.stride(0) == 0


def test_uniform_pins_where_units_differ_along_the_axes_alone() -> None:
    labels = Labels()
    column = labels.fresh(4).reshape(4, 1).expand(4, 3)
    labels.uniform(column, [0], "mixed")
    ((pinned, reason),) = labels.pins
    assert (pinned.tolist(), reason) == ([0, 1, 2, 3], "mixed")
    assert labels.classes().tolist() == [0, 1, 2, 3]


def test_uniform_leaves_steady_labels_alone() -> None:
    labels = Labels()
    row = labels.fresh(3).expand(4, 3)
    assert labels.uniform(row, [0], "mixed").tolist() == row.tolist()
    assert not labels.pins and not labels.pairs


def test_index_ties_two_uses_of_a_tensor() -> None:
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    assert labels.index("w", 0, a, "consumer") is a
    assert torch.equal(labels.index("w", 0, b, "producer"), a)
    assert labels.classes().tolist() == [0, 1, 0, 1]
    assert labels.roles["w", 0] == "producer"


def test_compacted_labels_take_no_space_where_they_do_not_change() -> None:
    row = torch.tensor([4, 5, 6]).repeat(2, 1).unsqueeze(-1).repeat(1, 1, 7)  # shape: (2, 3, 7)
    small = compacted(row)
    assert torch.equal(small, row) and small.stride()[0] == small.stride()[2] == 0
    assert varying_axes(small) == varying_axes(row) == {1}
    assert compressed(small).tolist() == [4, 5, 6]


def test_fixed_labels_vary_nowhere() -> None:
    assert varying_axes(fixed([2, 3])) == set() and fixed([2, 3]).tolist() == [[FIXED] * 3] * 2


def test_slot_and_group_words() -> None:
    slot = Slot("w", 0, rows(2, 0), "producer")
    assert Group("w", 2, (slot,)).having("producer") == (slot,)
    assert Group("w", 2, (slot,)).having("consumer") == ()
