"""The networks, in plain torch: `Vit` for pictures, `Llama`, `Gpt` and `Bert` for text.

`Llama` has the names and conventions of Hugging Face's class, so that its weights load there too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Heads over one fused projection, with positions added before (`Vit`, `Gpt`, `Bert`)."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(n, tokens, width))


class Block(nn.Module):
    """Attention and a feed-forward layer of four times the width, each after its norm (pre-norm)."""

    def __init__(self, width: int, heads: int, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, causal)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Vit(nn.Module):
    """Logits of pictures (n, channels, size, size), (n, classes).

    Patches come from one convolution, or with `stem` from two of 3 × 3 with stride 2. The head reads the
    class token or, with `pooled`, the mean of the tokens.
    """

    def __init__(
        self, channels: int, size: int, width: int, depth: int, heads: int, classes: int,
        pooled: bool = False, stem: bool = False, dropout: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        patches: list[nn.Module] = [nn.Conv2d(channels, width, 4, 4)]
        if stem:
            half = width // 2
            patches = [nn.Conv2d(channels, half, 3, 2, 1), nn.BatchNorm2d(half), nn.GELU()]
            patches.append(nn.Conv2d(half, width, 3, 2, 1))
        self.patches = nn.Sequential(*patches)
        count = (size // 4) ** 2
        self.token = None if pooled else nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.positions = nn.Parameter(0.02 * torch.randn(1, count + (not pooled), width))
        self.blocks = nn.Sequential(*(Block(width, heads, dropout=dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.token is not None:
            x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = self.norm(self.blocks(x + self.positions))
        return self.head(x.mean(1) if self.token is None else x[:, 0])


class Gpt(nn.Module):
    """Next-token logits of ids (n, t), (n, t, vocabulary): learned positions, layer norms, GELU, tied
    head.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, depth: int, heads: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(0.02 * torch.randn(1, length, width))
        self.blocks = nn.Sequential(*(Block(width, heads, self.causal, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.head.weight = self.tokens.weight

    causal = True

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions[:, : ids.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Bert(Gpt):
    """Logits of every token of ids (n, t) where some are masked, (n, t, vocabulary): each sees all others."""

    causal = False


class RotaryAttention(nn.Module):
    """Separate projections, `groups` key/value heads, rotary positions (Llama)."""

    def __init__(self, width: int, heads: int, groups: int) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, width // heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, groups * self.size, bias=False)
        self.v_proj = nn.Linear(width, groups * self.size, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        n, tokens, _ = x.shape
        q = self.q_proj(x).view(n, tokens, self.heads, self.size).transpose(1, 2)
        k = self.k_proj(x).view(n, tokens, self.groups, self.size).transpose(1, 2)
        v = self.v_proj(x).view(n, tokens, self.groups, self.size).transpose(1, 2)
        q, k = rotated(q, cos, sin), rotated(k, cos, sin)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(n, tokens, self.heads * self.size))


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class SwiGlu(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class LlamaBlock(nn.Module):
    def __init__(self, width: int, hidden: int, heads: int, groups: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, 1e-6)
        self.self_attn = RotaryAttention(width, heads, groups)
        self.post_attention_layernorm = nn.RMSNorm(width, 1e-6)
        self.mlp = SwiGlu(width, hidden)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaBody(nn.Module):
    def __init__(
        self, vocabulary: int, length: int, width: int, hidden: int, depth: int, heads: int, groups: int
    ) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LlamaBlock(width, hidden, heads, groups) for _ in range(depth))
        self.norm = nn.RMSNorm(width, 1e-6)
        size = width // heads
        angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, size, 2) / size)
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed_tokens(ids)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Llama(nn.Module):
    """Next-token logits of ids (n, t), (n, t, vocabulary): rotary positions, RMS norms, SwiGLU, grouped
    queries.
    """

    def __init__(
        self, vocabulary: int, length: int, width: int, hidden: int, depth: int, heads: int, groups: int
    ) -> None:
        super().__init__()
        self.model = LlamaBody(vocabulary, length, width, hidden, depth, heads, groups)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                scale = (2 * depth) ** -0.5 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1.0
                nn.init.normal_(weight, std=0.02 * scale)
        self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.lm_head(self.model(ids))
