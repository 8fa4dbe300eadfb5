"""Data sets that are made: drawn from a seed, derived from MNIST, or spoken by espeak-ng."""

from __future__ import annotations

import io
import subprocess
import wave
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .packages import Array, Arrays, mnist, scaled, split

CANVAS, CELL, OBJECTS = 48, 8, 3  # of a scene: its width, that of a cell, the most digits
BANDS, FRAMES, RATE, WINDOW, STEP = 20, 50, 22050, 512, 330  # of a spoken digit

WORDS = "zero one two three four five six seven eight nine".split()
ACCENTS = ("en-us", "en-gb", "en-gb-scotland")
VOICES = "m1 m2 m3 m4 m5 m6 m7 f1 f2 f3 f4 klatt klatt2 croak Andy linda steph boris".split()
TEST_VOICES = "m8 f5 klatt4 robert".split()


def friedman(folder: Path) -> Arrays:
    """8,000 and 2,000 rows of ten numbers in [0, 1] and one value (Friedman 1991, no. 1, noise 0.5)."""
    drawn = np.random.default_rng(1)
    x = drawn.random((10_000, 10))
    y = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    y = (y + 0.5 * drawn.standard_normal(len(y)) - 14.4) / 4.9
    return split(x.astype(np.float32), y[:, None].astype(np.float32), 8000)


def control(folder: Path) -> Arrays:
    """4,000 and 2,000 control charts of 60 points, six classes (Alcock and Manolopoulos 1999): normal,
    cyclic, rising, falling, shifted up, shifted down.
    """
    drawn = np.random.default_rng(2)
    n, time = 6000, np.arange(60)
    labels = np.arange(n) % 6
    base = 30 + 2 * drawn.uniform(-3, 3, (n, 60))
    high, period = drawn.uniform(10, 15, (2, n, 1))
    cycle = high * np.sin(2 * np.pi * time / period)
    trend = drawn.uniform(0.2, 0.5, (n, 1)) * time
    shift = drawn.uniform(7.5, 20, (n, 1)) * (time >= drawn.integers(20, 41, (n, 1)))
    kinds = np.stack([0 * cycle, cycle, trend, -trend, shift, -shift])
    charts = base + kinds[labels, np.arange(n)]
    return scaled(split(charts[:, None], labels, 4000), axes=(0, 1, 2))


def pose(folder: Path) -> Arrays:
    """30,000 and 2,000 digits, turned, scaled and shifted; the values are turn / 45°, (scale − 0.85) / 0.2
    and the two shifts / 5 pixels, all in [−1, 1].
    """
    arrays, drawn, made = mnist(folder), torch.Generator().manual_seed(3), {}
    for part, count in (("train", 30_000), ("test", 2000)):
        images = torch.from_numpy(arrays[f"{part}_images"][:count].copy()).float().unsqueeze(1)
        values = 2 * torch.rand(count, 4, generator=drawn) - 1
        made[f"{part}_images"] = _posed(images, values).squeeze(1).round().to(torch.uint8).numpy()
        made[f"{part}_labels"] = values.numpy()
    return made


def _posed(images: Tensor, values: Tensor) -> Tensor:
    turn, scale, shift = values[:, 0] * torch.pi / 4, 0.85 + 0.2 * values[:, 1], values[:, 2:] * 5 / 14
    cos, sin = turn.cos() / scale, turn.sin() / scale
    inverse = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)
    grid = torch.cat([inverse, -inverse @ shift.unsqueeze(2)], 2)
    return F.grid_sample(
        images, F.affine_grid(grid, list(images.shape), align_corners=False), align_corners=False
    )


def scenes(folder: Path) -> Arrays:
    """10,000 and 2,000 pictures (48 × 48) of one to three MNIST digits of 12 to 24 pixels that do not
    overlap. Labels: the class in each of 6 × 6 cells that holds the centre of a digit, else 10. Boxes: the
    centre within the cell, width and height as a share of the picture, (4, 6, 6).
    """
    arrays, made = mnist(folder), {}
    for part, count in (("train", 10_000), ("test", 2000)):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        drawn = np.random.default_rng(len(images))
        rows = [_scene(images, labels, drawn) for _ in range(count)]
        for key, column in zip(("images", "labels", "boxes"), zip(*rows, strict=True), strict=True):
            made[f"{part}_{key}"] = np.stack(column)
    return made


def _scene(images: Array, labels: Array, drawn: np.random.Generator) -> tuple[Array, Array, Array]:
    canvas = np.zeros((CANVAS, CANVAS), np.uint8)
    cells = np.full((CANVAS // CELL,) * 2, 10, np.int64)
    boxes = np.zeros((4, *cells.shape), np.float32)
    for _ in range(drawn.integers(1, OBJECTS + 1)):
        chosen = drawn.integers(len(images))
        digit = _cropped(images[chosen], drawn.integers(12, 25))
        height, width = digit.shape
        top, left = drawn.integers(0, CANVAS - height + 1), drawn.integers(0, CANVAS - width + 1)
        x, y = left + width / 2, top + height / 2
        row, column = int(y // CELL), int(x // CELL)
        place = canvas[top : top + height, left : left + width]
        if place.any() or cells[row, column] != 10:
            continue
        place[:] = digit
        cells[row, column] = labels[chosen]
        boxes[:, row, column] = x / CELL - column, y / CELL - row, width / CANVAS, height / CANVAS
    return canvas, cells, boxes


def _cropped(image: Array, height: int) -> Array:
    """The inked part of a digit, `height` pixels high."""
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width = min(height, max(4, round(ink.shape[1] * height / ink.shape[0])))
    resized = F.interpolate(torch.from_numpy(ink.copy())[None, None].float(), (height, width), mode="area")
    return resized[0, 0].round().to(torch.uint8).numpy()


def spoken(folder: Path) -> Arrays:
    """2,160 and 480 digits in three accents, spoken by espeak-ng (which must be installed): 20 bands of the
    log spectrum over 50 frames, uint8 (n, 20, 50). No voice is in both parts.
    """
    arrays = {}
    for part, voices in (("train", VOICES), ("test", TEST_VOICES)):
        ways = product(voices, ACCENTS, ((130, 35), (150, 60), (170, 45), (190, 25)), range(10))
        rows = [(_bands(_said(WORDS[d], f"{accent}+{v}", *how)), d) for v, accent, how, d in ways]
        arrays[f"{part}_images"] = np.stack([bands for bands, _ in rows])
        arrays[f"{part}_labels"] = np.array([digit for _, digit in rows])
    arrays = scaled(arrays, axes=(0, 1, 2))
    bytes_of = {name: np.round(255 * arrays[name]) for name in ("train_images", "test_images")}
    return {**arrays, **{name: values.astype(np.uint8) for name, values in bytes_of.items()}}


def _said(word: str, voice: str, speed: int, pitch: int) -> Array:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", word]
    sound = subprocess.run(command, check=True, capture_output=True).stdout
    with wave.open(io.BytesIO(sound)) as file:
        assert file.getframerate() == RATE
    return np.frombuffer(sound, "<i2", offset=44).astype(np.float32) / 2**15


def _bands(sound: Array) -> Array:
    """Log energy in bands of equal width on the mel scale up to 8 kHz, of the loud part of a sound."""
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    wave = torch.from_numpy(sound[loud[0] : loud[-1] + 1].copy())
    wave = F.pad(wave, (0, max(0, FRAMES * STEP + WINDOW - len(wave))))
    power = torch.stft(wave, WINDOW, STEP, window=torch.hann_window(WINDOW), return_complex=True).abs() ** 2
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), BANDS + 2)
    edges = torch.tensor(700 * (10 ** (mel / 2595) - 1), dtype=torch.float32)[:, None]
    hertz = torch.arange(WINDOW // 2 + 1) * RATE / WINDOW
    rising = (hertz - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - hertz) / (edges[2:] - edges[1:-1])
    weights = torch.minimum(rising, falling).clamp(min=0)
    return (weights @ power[:, :FRAMES] + 1e-4).log().numpy()
