"""Synthetic pictures: strokes, fallen leaves and clouds, in one, two or three dimensions of space.

Networks that train on such pictures learn the features of natural ones (Baradad et al. 2021, arXiv
2106.05963). Each function draws (n, channels, *space) in the unit cube.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from secateur.graph.workers import in_order

Drawing = Callable[[int, int, tuple[int, ...], torch.Generator], Tensor]

_NUMBERS = 2**22  # that a drawing holds at once
_CACHED = 2**16  # numbers in each of a few tensors that stay in the cache
_PIECES = 8  # straight pieces of a curve
_SHARP = 0.6  # deviation of the pen's softness, in points


def points(space: tuple[int, ...]) -> Tensor:
    """Coordinates from −1 to 1 of every point; shape: (points, dimensions)."""
    axes = [torch.linspace(-1, 1, size) if size > 1 else torch.zeros(1) for size in space]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def smooth(x: Tensor, deviation: float, axes: tuple[int, ...]) -> Tensor:
    """Gaussian means along `axes`, over what there is at the borders."""
    for axis in axes:
        place = torch.arange(x.shape[axis], dtype=x.dtype)
        kernel = torch.exp(-(place[:, None] - place).square() / (2 * deviation**2))
        x = (x.movedim(axis, -1) @ (kernel / kernel.sum(0))).movedim(-1, axis)
    return x


def spectral_noise(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Gaussian noise with amplitudes 1/f^p, p from 0.5 to 2, mean 0 and deviation 1 over each drawing."""
    sizes = [torch.fft.fftfreq(size) for size in space[:-1]] + [torch.fft.rfftfreq(space[-1])]
    frequency = torch.stack(torch.meshgrid(*sizes, indexing="ij")).norm(dim=0).clamp(min=1 / max(space))
    axes, ones = tuple(range(2, 2 + len(space))), [1] * (1 + len(space))
    power = 0.5 + 1.5 * torch.rand(n, *ones, generator=generator)
    noise = torch.randn(n, channels, *space, generator=generator)
    x = torch.fft.irfftn(torch.fft.rfftn(noise, dim=axes) * frequency**-power, s=space, dim=axes)
    x = x - x.mean(axes, keepdim=True)
    standard: Tensor = x / x.square().flatten(1).mean(1).sqrt().clamp(min=1e-6).reshape(-1, *ones)
    return standard


def clouds(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Spectral noise of any level and contrast."""
    ones = [1] * (1 + len(space))
    level = 0.2 + 0.6 * torch.rand(n, *ones, generator=generator)
    contrast = 0.1 + 0.3 * torch.rand(n, *ones, generator=generator)
    return (level + contrast * spectral_noise(n, channels, space, generator)).clamp(0, 1)


def haze(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Spectral noise that rises from a dark ground."""
    ones = [1] * (1 + len(space))
    level = 0.3 * torch.rand(n, *ones, generator=generator)
    contrast = 0.1 + 0.4 * torch.rand(n, *ones, generator=generator)
    return (level + contrast * spectral_noise(n, channels, space, generator)).clamp(0, 1)


def blobs(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """The parts of a cloud above some height, steep at their edges, on a dark ground."""
    ones = [1] * (1 + len(space))
    height = 1.5 * torch.rand(n, *ones, generator=generator) - 0.2
    shape = (4 * (spectral_noise(n, 1, space, generator) - height)).clamp(0, 1)
    return shape * _colours(n, channels, len(space), generator)


def strokes(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """One to four curves of a soft pen on a dark ground; on a line, bumps."""
    return in_pieces(_strokes, n, channels, space, generator)


def _strokes(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    where, dims = points(space), len(space)
    number = torch.randint(1, 5, (n,), generator=generator)
    width = 0.04 + 0.1 * torch.rand(n, 1, generator=generator)
    t = torch.linspace(0, 1, _PIECES + 1)[:, None, None, None]
    far = torch.full((n, len(where)), 81.0)  # squared distance to the nearest curve
    for k in range(4):
        a, b, c, d = (1.5 * torch.rand(n, dims, generator=generator) - 0.75 for _ in range(4))
        curve = ((1 - t) ** 3 * a + 3 * t * (1 - t) ** 2 * b + 3 * t**2 * (1 - t) * c + t**3 * d).squeeze(1)
        drawn = number > k
        some = curve[:, drawn].split(_at_once(where), 1)
        far[drawn] = torch.minimum(far[drawn], torch.cat(list(in_order(partial(_to_curve, where), some))))
    ink = ((width - far.clamp_(min=0).sqrt_()) * max(space) / 2 + 0.5).clamp(0, 1).reshape(n, 1, *space)
    return smooth(ink, _SHARP, tuple(range(2, 2 + dims))) * _colours(n, channels, dims, generator)


def _to_curve(where: Tensor, curve: Tensor) -> Tensor:
    """Squared distances of points (p, d) to the nearest piece of curves (pieces + 1, n, d); shape: (n, p).

    From a point at u of the length L of a piece from s it is |p − s|² − L·t·(2u − t), t = u within [0, 1].
    """
    start, along = curve[:-1], curve[1:] - curve[:-1]
    length = along.square().sum(2, keepdim=True).clamp(min=1e-9)
    terms = torch.cat([where, where.square().sum(1, keepdim=True), torch.ones(len(where), 1)], 1).T
    to_start = torch.cat([-2 * start, torch.ones_like(length), start.square().sum(2, keepdim=True)], 2)
    by_length = torch.cat([along, torch.zeros_like(length), -(along * start).sum(2, keepdim=True)], 2)
    u, t, squared = (torch.empty(curve.shape[1], len(where)) for _ in range(3))
    nearest = torch.full_like(u, torch.inf)
    for from_start, projected, scale in zip(to_start, by_length / length, length, strict=True):
        torch.mm(projected, terms, out=u)
        torch.clamp(u, 0, 1, out=t)
        torch.sub(t, u, alpha=2, out=u).mul_(t)
        torch.mm(from_start, terms, out=squared).addcmul_(u, scale)
        torch.minimum(nearest, squared, out=nearest)
    return nearest


def leaves(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Fallen leaves: ellipses and boxes of all sizes, each before the last (Lee, Mumford & Huang 2001)."""
    return in_pieces(_leaves, n, channels, space, generator)


def things(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A few leaves on a dark ground."""
    return in_pieces(_things, n, channels, space, generator)


def _leaves(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    ground = torch.rand(n, channels, 1, generator=generator)
    return _fallen(ground, space, 24, 0.8, generator)


def _things(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return _fallen(torch.zeros(n, channels, 1), space, 4, 0.6, generator)


def _fallen(
    ground: Tensor, space: tuple[int, ...], number: int, largest: float, generator: torch.Generator
) -> Tensor:
    """`number` leaves on `ground` (n, channels, 1), radii from 0.08 to `largest`, log-uniform."""
    n, channels, _ = ground.shape
    where, dims = points(space), len(space)
    axes, elliptic, tints = list[Tensor](), list[Tensor](), [ground]
    for _ in range(number):
        centre = 2.2 * torch.rand(n, dims, 1, generator=generator) - 1.1
        radius = 0.08 * (largest / 0.08) ** torch.rand(n, 1, dims, generator=generator)
        turned = (torch.linalg.qr(torch.randn(n, dims, dims, generator=generator)).Q / radius).mT
        axes.append(torch.cat([turned, -turned @ centre], 2).transpose(0, 1))
        elliptic.append((torch.rand(n, 1, generator=generator) >= 0.5).float())
        tints.append(_tint(n, channels, generator))
    some = _at_once(where)
    pairs = zip(torch.stack(axes).split(some, 2), torch.stack(elliptic).split(some, 1), strict=True)
    top = torch.cat(list(in_order(lambda pair: _topmost(where, *pair), pairs))).long()
    x = torch.cat(tints, 2).gather(2, top[:, None].expand(-1, channels, -1))
    return x.reshape(n, channels, *space)


def _topmost(where: Tensor, leaves: Tensor, elliptic: Tensor) -> Tensor:
    """The last leaf over each of the points (p, d), from 1, 0 where there is none; shape: (n, p).

    Args:
        leaves: What makes of a point and 1 its place in a leaf, in radii; shape: (leaves, d, n, d + 1).
        elliptic: 1 for ellipses; 0 for boxes, for which the farthest coordinate counts; (leaves, n, 1).
    """
    terms = torch.cat([where, torch.ones(len(where), 1)], 1).T
    top, far, along, less = (torch.zeros(leaves.shape[2], len(where)) for _ in range(4))
    for number, (axes, summed) in enumerate(zip(leaves, elliptic, strict=True), 1):
        far.zero_()
        for axis in axes:
            torch.mm(axis, terms, out=along).square_()
            torch.minimum(far, along, out=less)
            torch.maximum(far, along, out=far).addcmul_(less, summed)  # the sum or the larger
        torch.maximum(top, far.lt_(1).mul_(number), out=top)
    return top


def _at_once(where: Tensor) -> int:
    """How many drawings of so many points to work on at a time."""
    return max(1, _CACHED // len(where))


def _tint(n: int, channels: int, generator: torch.Generator) -> Tensor:
    """A brightness from 0 to 1, and colours near it; shape: (n, channels, 1)."""
    colour = torch.rand(n, channels, 1, generator=generator)
    return colour if channels == 1 else 0.6 * torch.rand(n, 1, 1, generator=generator) + 0.4 * colour


def _colours(n: int, channels: int, dims: int, generator: torch.Generator) -> Tensor:
    """Bright colours on a dark ground; white where there is one channel."""
    if channels == 1:
        return torch.ones(n, 1, *[1] * dims)
    return 1 - 0.7 * torch.rand(n, channels, *[1] * dims, generator=generator)


def in_pieces(
    drawing: Drawing, n: int, channels: int, space: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """The drawing in pieces that hold a bounded number of numbers."""
    size = max(1, _NUMBERS // max(1, len(points(space)) * max(channels, len(space))))
    parts = [drawing(min(size, n - start), channels, space, generator) for start in range(0, n, size)]
    return torch.cat(parts)


def negative(drawing: Drawing) -> Drawing:
    """The same, dark on bright."""

    def draw(n: int, channels: int, space: tuple[int, ...], generator: torch.Generator) -> Tensor:
        return 1 - drawing(n, channels, space, generator)

    return draw


DRAWINGS: dict[str, Drawing] = {
    "strokes": strokes,
    "things": things,
    "blobs": blobs,
    "leaves": leaves,
    "haze": haze,
    "clouds": clouds,
    "dark strokes": negative(strokes),
    "dark things": negative(things),
    "dark blobs": negative(blobs),
}
