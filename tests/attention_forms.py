"""Attention as networks write it, small and with random weights: one row for each form.

To add a form, write a module that takes tokens of shape (batch, tokens, 12) and gives such, and add a row with
what must be prunable in it: `heads`, `qk` and `v`, the numbers of units of the groups of its heads, query and
key widths, and value widths.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures import (
    Architecture,
    FusedAttention,
    GroupedQueryAttention,
    RotaryAttention,
    SelfAttention,
    SequenceClassifier,
    TransformerBlock,
    mlp,
    row,
)

DIM, TOKENS = 12, 6


@dataclass(frozen=True)
class Form:
    """A form of attention, and the units of its groups; 0: none can leave."""

    architecture: Architecture
    heads: int
    qk: int
    v: int


class Heads(nn.Module):
    """Separate projections into heads, and the way back; forms overwrite what is in between."""

    def __init__(self, heads: int = 3, width: int = 4, value: int = 5, bias: bool = True) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.q, self.k = nn.Linear(DIM, heads * width, bias), nn.Linear(DIM, heads * width, bias)
        self.v, self.out = nn.Linear(DIM, heads * value, bias), nn.Linear(heads * value, DIM, bias)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def joined(self, x: Tensor) -> Tensor:
        return self.out(x.transpose(1, 2).flatten(2))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)

    def forward(self, x: Tensor) -> Tensor:
        return self.joined(self.mixed(self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))))


class Options(Heads):
    """Options of the fused op: a scale, a causal mask, or a mask of numbers."""

    def __init__(self, scale: float | None = None, causal: bool = False, mask: bool = False) -> None:
        super().__init__()
        self.scale, self.causal = scale, causal
        self.register_buffer("mask", torch.randn(TOKENS, TOKENS) if mask else None)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=self.mask, is_causal=self.causal, scale=self.scale
        )


class ByHand(Heads):
    """softmax(q kᵀ) v with the scale in one of four places."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        root = math.sqrt(self.width)
        q = q * root**-1 if self.where == "times before" else q
        k = k / root if self.where == "divided before" else k
        scores = q @ k.transpose(-2, -1)
        scores = scores * root**-1 if self.where == "times after" else scores
        scores = scores / root if self.where == "divided after" else scores
        return scores.softmax(-1) @ v


class ByEinsum(Heads):
    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * 0.5
        return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


class RelativeBias(Heads):
    """A learned bias for each head and pair of places, looked up in a table, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(2 * TOKENS - 1, self.heads))
        places = torch.arange(TOKENS)
        self.register_buffer("index", (places[:, None] - places + TOKENS - 1).flatten())

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = self.table[self.index].view(TOKENS, TOKENS, -1).permute(2, 0, 1)
        scores = q @ k.transpose(-2, -1) * 0.5 + bias.unsqueeze(0)
        return scores.softmax(-1) @ v


class Alibi(Heads):
    """Distances times a slope for each head."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, self.heads + 1)[:, None, None])

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        places = torch.arange(TOKENS)
        distance = -(places[:, None] - places).abs()
        return (q @ k.transpose(-2, -1) * 0.5 + distance * self.slopes).softmax(-1) @ v


class ZeroBias(Heads):
    """A bias of zeros for each head, as T5 has in its cross-attention."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = torch.zeros((1, self.heads, TOKENS, TOKENS))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


class InterleavedRotary(Heads):
    """Neighbouring dimensions are a pair."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(TOKENS)[:, None] / 100.0 ** (torch.arange(self.width // 2) / 2)

        def turned(x: Tensor) -> Tensor:
            even, odd = x[..., 0::2], x[..., 1::2]
            both = (even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos())
            return torch.stack(both, -1).flatten(-2)

        return F.scaled_dot_product_attention(turned(q), turned(k), v)


class PartialRotary(InterleavedRotary):
    """Of six dimensions the first four are two pairs, the others pass by."""

    def __init__(self) -> None:
        super().__init__(width=6)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(TOKENS)[:, None] / 100.0 ** (torch.arange(2) / 2)

        def turned(x: Tensor) -> Tensor:
            first, second, rest = x.split([2, 2, 2], -1)
            cos, sin = angles.cos(), angles.sin()
            return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)

        return F.scaled_dot_product_attention(turned(q), turned(k), v)


class Normed(Heads):
    """Queries and keys are normed over the width of a head."""

    def __init__(self, norm: type[nn.Module]) -> None:
        super().__init__()
        self.q_norm, self.k_norm = norm(self.width), norm(self.width)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)


class NormedByHand(Heads):
    """An RMS norm written out, before the heads are put first, as in Llama 4 and Qwen 3."""

    def __init__(self, shared: bool = False) -> None:
        super().__init__()
        self.q_scale = nn.Parameter(torch.randn(self.width))
        self.k_scale = self.q_scale if shared else nn.Parameter(torch.randn(self.width))

    def split_normed(self, x: Tensor, scale: Tensor) -> Tensor:
        x = x.unflatten(-1, (-1, self.width))
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (scale * x).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.split_normed(self.q(x), self.q_scale), self.split_normed(self.k(x), self.k_scale)
        return self.joined(F.scaled_dot_product_attention(q, k, self.split(self.v(x))))


class Grouped(Heads):
    """Two heads of keys and values for four of queries, given to each in one of three ways."""

    def __init__(self, how: str) -> None:
        super().__init__(4, 4, 5, bias=False)
        self.how, self.shared = how, 2
        self.k, self.v = nn.Linear(DIM, 2 * 4, bias=False), nn.Linear(DIM, 2 * 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, -1, 4).transpose(1, 2)
        k, v = self.k(x).view(b, t, -1, 4).transpose(1, 2), self.v(x).view(b, t, -1, 5).transpose(1, 2)
        if self.how == "enable_gqa":
            return self.joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True, is_causal=True))
        if self.how == "repeat":
            k, v = (y.repeat_interleave(2, 1) for y in (k, v))
        else:
            k, v = (y[:, :, None].expand(b, self.shared, 2, t, -1).reshape(b, 4, t, -1) for y in (k, v))
        return self.joined(F.scaled_dot_product_attention(q, k, v, is_causal=True))


class Cross(Heads):
    """Learned queries look at the tokens; each token gets the mean of what they see."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = nn.Parameter(torch.randn(1, 3, DIM))

    def forward(self, x: Tensor) -> Tensor:
        q = self.split(self.q(self.asked.expand(x.shape[0], -1, -1)))
        seen = self.joined(self.mixed(q, self.split(self.k(x)), self.split(self.v(x))))
        return x + seen.mean(1, keepdim=True)


class Windows(nn.Module):
    """Attention inside windows of two tokens, shifted by one, as in Swin."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = FusedAttention(DIM, 3)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        x = torch.roll(x, -1, 1).view(b, t // 2, 2, d).reshape(-1, 2, d)
        x = self.attention(x).view(b, t // 2, 2, d).reshape(b, t, d)
        return torch.roll(x, 1, 1)


class SelectedFused(FusedAttention):
    """One layer for q, k and v, read by index, softmax by hand, as in Swin and DINO."""

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        x = ((q * 0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(x.transpose(1, 2).reshape(b, t, d))


class HeadsFirstFused(nn.Module):
    """One layer for q, k and v, head by head, as in GPT-NeoX."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, -1)).transpose(1, 2).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Parallel(nn.Module):
    """Attention and a feed-forward layer side by side on one norm, as in GPT-J and ViT-22B."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(DIM), Heads(), mlp(nn.GELU, (DIM, 20, DIM))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.attn(normed) + self.mlp(normed)


class GatedLinear(nn.Module):
    """GeGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(DIM, 2 * 16), nn.Linear(16, DIM)

    def forward(self, x: Tensor) -> Tensor:
        up, gate = self.up(x).chunk(2, -1)
        return self.down(up * F.gelu(gate))


class LoopedExperts(nn.Module):
    """A softmax over experts weighs what each of them gives."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, 3)
        self.experts = nn.ModuleList([mlp(nn.GELU, (DIM, 9 + i, DIM)) for i in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        return sum(weights[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


class StackedExperts(nn.Module):
    """The same with the experts' weights in two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(DIM, 3)
        self.up, self.down = (
            nn.Parameter(torch.randn(3, DIM, 9) / 3),
            nn.Parameter(torch.randn(3, 9, DIM) / 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.gelu(torch.einsum("btd,edh->beth", x, self.up))
        each = torch.einsum("beth,ehd->betd", hidden, self.down)
        return torch.einsum("betd,bte->btd", each, self.router(x).softmax(-1))


def form(name: str, make: Callable[[], nn.Module], heads: int = 3, qk: int = 4, v: int = 5) -> Form:
    """The module as the attention of a pre-norm block between two linear layers."""
    build = lambda: SequenceClassifier(TransformerBlock(make(), DIM, 20))  # noqa: E731
    return Form(row(name, build, (TOKENS, 7)), heads, qk, v)


_ROWS = (
    form("separate", Heads),
    form("no_bias", lambda: Heads(bias=False)),
    form("scale", lambda: Options(scale=0.4)),
    form("causal", lambda: Options(causal=True)),
    form("mask", lambda: Options(mask=True)),
    *(form(where.replace(" ", "_"), lambda where=where: ByHand(where))
      for where in ("times before", "divided before", "times after", "divided after")),
    form("einsum", ByEinsum),
    form("fused", lambda: FusedAttention(DIM, 3), v=4),
    form("selected_fused", lambda: SelectedFused(DIM, 3), v=4),
    form("heads_first_fused", HeadsFirstFused, v=4),
    form("multihead", lambda: SelfAttention(DIM, 3, need_weights=False), v=4),
    form("multihead_weights", lambda: SelfAttention(DIM, 3, need_weights=True), v=4),
    form("relative_bias", RelativeBias),
    form("alibi", Alibi),
    form("zero_bias", ZeroBias),
    form("rotary_halves", lambda: RotaryAttention(DIM, 3, 4), qk=2, v=4),
    form("rotary_interleaved", InterleavedRotary, qk=2),
    form("rotary_partial", PartialRotary, qk=2),
    form("layer_normed", lambda: Normed(nn.LayerNorm)),
    form("rms_normed", lambda: Normed(nn.RMSNorm)),
    form("rms_by_hand", NormedByHand),
    form("rms_shared", lambda: NormedByHand(shared=True), qk=0),
    form("gqa_option", lambda: Grouped("enable_gqa"), heads=2),
    form("gqa_repeat", lambda: Grouped("repeat"), heads=2),
    form("gqa_expand", lambda: Grouped("expand"), heads=2),
    form("gqa_three", lambda: GroupedQueryAttention(DIM, 6, 2, 3), heads=2, qk=3, v=3),
    form("cross", Cross),
    form("windows", Windows, v=4),
    Form(row("parallel", lambda: SequenceClassifier(Parallel()), (TOKENS, 7)), 3, 4, 5),
)  # fmt: skip

FORMS: dict[str, Form] = {found.architecture.name: found for found in _ROWS}
FEED_FORWARD: dict[str, tuple[Architecture, set[int]]] = {
    "geglu": (row("geglu", lambda: SequenceClassifier(TransformerBlock(GatedLinear(), DIM, 20)), (TOKENS, 7)), {16}),
    "experts": (
        row("experts", lambda: SequenceClassifier(TransformerBlock(LoopedExperts(), DIM, 20)), (TOKENS, 7)),
        {9, 10, 11},
    ),
    "stacked_experts": (
        row("stacked", lambda: SequenceClassifier(TransformerBlock(StackedExperts(), DIM, 20)), (TOKENS, 7)),
        {9},
    ),
}  # fmt: skip
