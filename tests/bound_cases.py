"""Small networks for the tests of bounds: one row per op, or per family of ops, of the rule tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.graph.capture import capture
from secateur.graph.graph import Graph

IMAGE, VECTOR, SEQUENCE, VOLUME = (2, 4, 6, 6), (2, 6), (2, 5, 4), (2, 2, 4, 4, 4)


@dataclass(frozen=True)
class Case:
    body: Callable[..., object]
    shapes: tuple[tuple[int, ...], ...]
    parts: Callable[[], dict[str, object]] = field(default=dict)
    exact: bool = True  # whether a box of one point gives the forward pass


class Network(nn.Module):
    """A gain and a shift, so that changed weights reach the op from its input too; then the body of a
    case.
    """

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.tensor([1.1])), nn.Parameter(torch.tensor([-0.1]))
        self.body = case.body
        for name, part in case.parts().items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            else:
                self.register_parameter(name, nn.Parameter(part))

    def forward(self, *inputs: Tensor) -> object:
        return self.body(self, *(x * self.gain + self.shift if x.is_floating_point() else x for x in inputs))


def p(*shape: int) -> Tensor:
    return torch.randn(shape) * 0.7


def function(f: Callable[[Tensor], object], shape: tuple[int, ...] = VECTOR) -> Case:
    return Case(lambda m, x: f(x), (shape,))


def layer(make: Callable[[], nn.Module], shape: tuple[int, ...], exact: bool = True) -> Case:
    return Case(lambda m, x: m.layer(x), (shape,), lambda: {"layer": make()}, exact)


def trained(norm: nn.Module) -> nn.Module:
    """A norm with parameters and statistics that are not those of a fresh one."""
    for value in (*norm.parameters(), *norm.buffers()):
        if value.is_floating_point():
            value.data.copy_(torch.rand_like(value) + 0.3)
    return norm


def attend(m: nn.Module, x: Tensor, **options: object) -> Tensor:
    return F.scaled_dot_product_attention(x @ m.q, x @ m.k, x @ m.v, **options)  # type: ignore[arg-type]


def heads(x: Tensor) -> Tensor:
    return x.view(x.shape[0], 5, 2, 2).transpose(1, 2)


def attend_by_heads(m: nn.Module, x: Tensor) -> Tensor:
    """Attention's output is laid out so that the capture needs no copy before `view`; its bounds need not
    be.
    """
    out = F.scaled_dot_product_attention(heads(x @ m.q), heads(x @ m.k), heads(x @ m.v))
    return out.transpose(1, 2).contiguous().view(x.shape)


QKV = lambda: {"q": p(4, 4), "k": p(4, 4), "v": p(4, 4)}  # noqa: E731
CAUSAL = torch.ones(5, 5, dtype=torch.bool).tril()

CASES: dict[str, Case] = {
    # movement
    "view_transpose_permute": function(
        lambda x: x.transpose(1, 2).permute(0, 3, 1, 2).contiguous().view(x.shape[0], -1), IMAGE
    ),
    "flatten_unflatten": function(lambda x: x.flatten(1).unflatten(1, (4, -1)).reshape(-1, 36), IMAGE),
    "cat_stack": Case(
        lambda m, x: torch.cat(
            [x, torch.stack([x, m.table.expand_as(x)], 2)[:, :, 0], m.table.expand_as(x)], 1
        ),
        (VECTOR,),
        lambda: {"table": p(1, 6)},
    ),
    "split_chunk_unbind": function(
        lambda x: [*x.split(2, 1), *x.split([1, 3], 1), *x.chunk(2, 2), *x.unbind(3)], IMAGE
    ),
    "select_slice_narrow": function(lambda x: (x[:, 1], x[:, 1:3], x.narrow(2, 1, 2)), IMAGE),
    "expand_squeeze": function(
        lambda x: x.unsqueeze(1).expand(-1, 3, -1).broadcast_to(x.shape[0], 3, 6).squeeze(1).movedim(1, 2)
    ),
    "clone_alias_to": function(
        lambda x: (
            x.clone(),
            x.detach(),
            x.to(torch.float32),
            x.type_as(x),
            torch.ops.aten.alias(x),
            torch.ops.aten._to_copy(x),
            torch.ops.aten.lift_fresh_copy(x),
        )
    ),
    "view_as": function(lambda x: x.mean(1).view_as(x.sum(1)) + x.swapaxes(1, 2).mT.sum(1), SEQUENCE),
    "matrix_transposes": Case(
        lambda m, x: (x @ m.w.t(), x @ m.w.T, x.T.T, x.t().t()), (VECTOR,), lambda: {"w": p(3, 6)}
    ),
    "flip_roll_repeat": function(
        lambda x: (x.flip(1), x.roll(1, 1), x.repeat(1, 2), x.repeat_interleave(2, 1), x.tile(1, 2))
    ),
    "index": function(
        lambda x: (x.index_select(1, torch.tensor([0, 2])), x[:, torch.tensor([1, 1, 0])], F.unfold(x, 2)),
        IMAGE,
    ),
    "gathered": function(
        lambda x: (
            x.gather(1, torch.tensor([3, 0]).view(1, 2, 1, 1).expand(x.shape[0], 2, 6, 6)),
            x.unfold(2, 3, 2),
            *x.tensor_split(3, 1),
            torch.hstack([x, x * 2]),
            torch.vstack([x, x * 2]),
        ),
        IMAGE,
    ),
    "shuffles": function(
        lambda x: (F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x, 2)), IMAGE
    ),
    "pads": function(
        lambda x: (
            F.pad(x, (1, 2), value=0.5),
            F.pad(x, (1, 1, 1, 1), mode="reflect"),
            torch.ops.aten.constant_pad_nd(x, [1, 1], 2.0),
            torch.ops.aten.reflection_pad1d(x.flatten(2), [1, 2]),
            torch.ops.aten.reflection_pad2d(x, [1, 0, 2, 1]),
            torch.ops.aten.replication_pad1d(x.flatten(2), [1, 2]),
            torch.ops.aten.replication_pad2d(x, [1, 0, 2, 1]),
        ),
        IMAGE,
    ),
    "pads_3d": function(
        lambda x: (
            torch.ops.aten.reflection_pad3d(x, [1, 1, 0, 1, 2, 1]),
            torch.ops.aten.replication_pad3d(x, [1, 1, 0, 1, 2, 1]),
        ),
        VOLUME,
    ),
    "where_masked_fill": function(
        lambda x: (
            torch.where(CAUSAL[:, :4], x, 0.3),
            x.masked_fill(CAUSAL[:, :4], -2.0),
            torch.where(CAUSAL[:, :4], x, -x),
            x.masked_fill(CAUSAL[:, :4], torch.tensor(-2.0)),
        ),
        SEQUENCE,
    ),
    "shape_only": function(
        lambda x: (
            x
            + torch.zeros_like(x)
            + torch.ones_like(x)
            + torch.full_like(x, 0.2)
            + x.new_zeros(6)
            + x.new_ones(6)
            + x.new_full((6,), 2.0)
            + x.shape[0]
        )
    ),
    "triangles": function(lambda x: (x.tril(), x.triu(), x.cumsum(1)), SEQUENCE),
    "dropouts": Case(
        lambda m, x: m.d(m.c(m.b(m.a(x)))),
        (IMAGE,),
        lambda: {
            "a": nn.Dropout(),
            "b": nn.Dropout2d(),
            "c": nn.AlphaDropout(),
            "d": nn.FeatureAlphaDropout(),
        },
    ),
    # sums and pools
    "mean_sum": function(lambda x: (x.mean((2, 3)), x.sum(1), x.mean(1, keepdim=True)), IMAGE),
    "average_pools": function(
        lambda x: (
            F.avg_pool2d(x, 2, padding=1),
            F.adaptive_avg_pool2d(x, 2),
            F.avg_pool1d(x.flatten(2), 2),
            F.adaptive_avg_pool1d(x.flatten(2), 3),
        ),
        IMAGE,
    ),
    "average_pools_3d": function(lambda x: (F.avg_pool3d(x, 2), F.adaptive_avg_pool3d(x, 2)), VOLUME),
    "max_pools": function(
        lambda x: (
            F.max_pool2d(x, 3, 2, 1),
            F.adaptive_max_pool2d(x, 2),
            F.max_pool1d(x.flatten(2), 2),
            F.adaptive_max_pool1d(x.flatten(2), 3),
            torch.ops.aten.max_pool2d_with_indices(x, [2, 2])[0],
        ),
        IMAGE,
    ),
    "max_pools_3d": function(lambda x: (F.max_pool3d(x, 2), F.adaptive_max_pool3d(x, 2)), VOLUME),
    "maxima": function(
        lambda x: (x.max(1)[0], x.min(1)[0], x.amax((2, 3)), x.amin(1), x.maximum(-x), x.minimum(x + 1)),
        IMAGE,
    ),
    "upsample": function(
        lambda x: (
            F.interpolate(x, scale_factor=2),
            F.interpolate(x, (5, 5), mode="bilinear"),
            F.interpolate(x, (4, 4), mode="nearest-exact"),
            F.interpolate(x.flatten(2), 9),
            F.interpolate(x.flatten(2), 9, mode="linear"),
            F.interpolate(x.flatten(2), 9, mode="nearest-exact"),
        ),
        IMAGE,
    ),
    "upsample_3d": function(
        lambda x: (
            F.interpolate(x, (3, 3, 3)),
            F.interpolate(x, (5, 5, 5), mode="trilinear"),
            F.interpolate(x, (3, 3, 3), mode="nearest-exact"),
        ),
        VOLUME,
    ),
    # element-wise functions
    "abs": function(torch.abs),
    "arcs": function(lambda x: (torch.atan(3 * x), torch.asinh(5 * x), torch.sinh(x))),
    "celu": function(lambda x: F.celu(x, 1.5)),
    "clamp": function(
        lambda x: (
            x.clamp(-0.3, 0.4),
            x.clamp_min(0.1),
            x.clamp_max(0.2),
            x.clamp(torch.tensor(-0.1), torch.tensor(0.5)),
            x.clamp(x * 0.5 - 0.1, x.flip(1)),
        )
    ),
    "elu": function(lambda x: F.elu(x, 1.4)),
    "erf": function(torch.erf),
    "exp": function(lambda x: (torch.exp(x), torch.expm1(x))),
    "gelu": function(F.gelu),
    "gelu_tanh": function(lambda x: F.gelu(x, approximate="tanh")),
    "glu": function(F.glu),
    "hardsigmoid": function(lambda x: F.hardsigmoid(4 * x)),
    "hardswish": function(lambda x: F.hardswish(4 * x)),
    "hardtanh": function(lambda x: (F.hardtanh(x, -0.5, 0.6), F.relu6(7 * x))),
    "leaky_relu": function(lambda x: (F.leaky_relu(x, 0.1), F.leaky_relu(x, -0.5))),
    "log": function(lambda x: (torch.log(x.abs() + 0.5), F.logsigmoid(x), torch.log1p(x.abs()))),
    "logsumexp": function(lambda x: x.logsumexp(1)),
    "mish": function(lambda x: F.mish(2 * x)),
    "neg": function(torch.neg),
    "norm": function(lambda x: F.normalize(x, dim=1)),
    "pow": function(
        lambda x: (x**2, x**3, x.abs() ** 0.5, (x.abs() + 0.4) ** -1.5, (x + 9) ** -2, torch.square(x))
    ),
    "prelu": Case(lambda m, x: F.prelu(x, m.w), (IMAGE,), lambda: {"w": torch.tensor([0.2, -0.4, 1.5, 0.0])}),
    "prelu_shared": Case(lambda m, x: F.prelu(x, m.w), (IMAGE,), lambda: {"w": torch.tensor([0.25])}),
    "reciprocal": function(lambda x: (1 / (x.abs() + 0.5), torch.reciprocal(x - 8))),
    "relu": function(torch.relu),
    "roots": function(lambda x: (torch.sqrt(x.abs() + 0.5), torch.rsqrt(x.abs() + 0.5))),
    "selu": function(F.selu),
    "shrinks": function(lambda x: (F.hardshrink(x, 0.3), F.softshrink(x, 0.3))),
    "sigmoid": function(lambda x: torch.sigmoid(3 * x)),
    "silu": function(lambda x: F.silu(3 * x)),
    "softplus": function(lambda x: F.softplus(x, beta=2)),
    "steps": function(lambda x: (torch.sign(x), torch.floor(3 * x), torch.ceil(3 * x), torch.round(3 * x))),
    "tanh": function(torch.tanh),
    # arithmetic
    "add_sub": Case(
        lambda m, x: (
            x + m.w,
            torch.add(x, x * 2, alpha=-0.5),
            m.w - x,
            torch.rsub(x, 3, alpha=2),
            x - 1.1,
            x + 0.1,
        ),
        (VECTOR,),
        lambda: {"w": p(6)},
    ),
    "mul_div": Case(
        lambda m, x: (x * m.w, x * x.flip(1), x / m.d, m.w / (x + 9), x / 3.1, x * 0.1, x / (x * 0.1 + 5)),
        (VECTOR,),
        lambda: {"w": p(6), "d": torch.rand(6) + 1},
    ),
    "linear": layer(lambda: nn.Linear(6, 3), VECTOR),
    "linear_no_bias": layer(lambda: nn.Linear(4, 3, bias=False), SEQUENCE),
    "conv1d": layer(lambda: nn.Conv1d(5, 3, 3, padding="same"), SEQUENCE),
    "conv2d": layer(lambda: nn.Conv2d(4, 3, 3, stride=2, padding=1), IMAGE),
    "conv2d_grouped": layer(lambda: nn.Conv2d(4, 6, 3, groups=2), IMAGE),
    "conv2d_depthwise": layer(lambda: nn.Conv2d(4, 8, 3, groups=4, padding="same", bias=False), IMAGE),
    "conv3d": layer(lambda: nn.Conv3d(2, 3, 2), VOLUME),
    "conv_transpose1d": layer(lambda: nn.ConvTranspose1d(5, 3, 2, 2), SEQUENCE),
    "conv_transpose2d": layer(lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2), IMAGE),
    "conv_transpose3d": layer(lambda: nn.ConvTranspose3d(2, 3, 2), VOLUME),
    "matmul": Case(
        lambda m, x: (x @ m.w, m.left @ x, x @ x.mT, torch.bmm(x, x.mT)),
        (SEQUENCE,),
        lambda: {"w": p(4, 3), "left": p(2, 5)},
    ),
    "addmm": Case(
        lambda m, x: (torch.addmm(m.b, x, m.w, beta=0.5, alpha=2), torch.mm(x, m.w)),
        (VECTOR,),
        lambda: {"b": p(3), "w": p(6, 3)},
    ),
    "baddbmm": Case(
        lambda m, x: torch.baddbmm(m.b, x, x.mT, beta=0.5, alpha=0.3), (SEQUENCE,), lambda: {"b": p(5)}
    ),
    "einsum": Case(
        lambda m, x: (
            torch.einsum("btc,cd->bdt", x, m.w),
            torch.einsum("btc,bsc->bts", x, x),
            torch.einsum("btc->bc", x),
        ),
        (SEQUENCE,),
        lambda: {"w": p(4, 3)},
    ),
    # norms, attention, recurrence, tables
    "batch_norm": layer(lambda: trained(nn.BatchNorm2d(4)), IMAGE),
    "batch_norm_plain": layer(lambda: trained(nn.BatchNorm1d(6, affine=False)), VECTOR),
    "layer_norm": layer(lambda: trained(nn.LayerNorm(4)), SEQUENCE),
    "layer_norm_plain": layer(lambda: nn.LayerNorm((5, 4), elementwise_affine=False), SEQUENCE),
    "rms_norm": layer(lambda: trained(nn.RMSNorm(4)), SEQUENCE),
    "group_norm": layer(lambda: trained(nn.GroupNorm(2, 4)), IMAGE),
    "instance_norm": layer(lambda: trained(nn.InstanceNorm2d(4, affine=True)), IMAGE),
    "softmax": function(
        lambda x: (
            F.softmax(5 * x, 1),
            F.log_softmax(5 * x, 1),
            torch.ops.aten._softmax(x, 1, False),
            torch.ops.aten._log_softmax(x, 1, False),
            torch.ops.aten._safe_softmax(x, 1),
        )
    ),
    "attention": Case(lambda m, x: attend(m, x), (SEQUENCE,), QKV),
    "attention_heads": Case(attend_by_heads, (SEQUENCE,), QKV),
    "attention_causal": Case(lambda m, x: attend(m, x, is_causal=True, scale=0.9), (SEQUENCE,), QKV),
    "attention_masked": Case(lambda m, x: attend(m, x, attn_mask=CAUSAL), (SEQUENCE,), QKV),
    "attention_biased": Case(
        lambda m, x: attend(m, x, attn_mask=m.mask), (SEQUENCE,), lambda: {**QKV(), "mask": p(5, 5)}
    ),
    "transformer": layer(lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), SEQUENCE),
    "multihead": Case(
        lambda m, x: m.layer(x, x, x)[0],
        (SEQUENCE,),
        lambda: {"layer": nn.MultiheadAttention(4, 2, batch_first=True)},
    ),
    "lstm": layer(lambda: nn.LSTM(4, 3, batch_first=True), SEQUENCE, exact=False),
    "gru": Case(
        lambda m, x: m.layer(x)[0],
        (SEQUENCE,),
        lambda: {"layer": nn.GRU(4, 3, batch_first=True)},
        exact=False,
    ),
    "embedding": Case(
        lambda m, x, ids: m.table(ids).mean(1) + x + m.place(torch.arange(5)).sum(0),
        (VECTOR, (2, 5)),
        lambda: {"table": nn.Embedding(7, 6), "place": nn.Embedding(5, 6)},
    ),
}


def example(case: Case) -> tuple[Tensor, ...]:
    """Random inputs in [−1, 1]; the second is of token ids."""
    x = torch.rand(case.shapes[0]) * 2 - 1
    return (x, *(torch.randint(0, 7, shape) for shape in case.shapes[1:]))


@cache
def captured(name: str) -> Graph:
    torch.manual_seed(0)
    case = CASES[name]
    return capture(Network(case).eval(), example(case))
