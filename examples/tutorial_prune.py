"""Tutorial: train a small network, make it smaller without its data, and decide how much to remove.

Run it with `python examples/tutorial_prune.py`; it takes a few seconds and needs no files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur

SIDE, CLASSES = 10, ("horizontal bar", "vertical bar", "diagonal", "square")


def drawings(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Grey pictures (count, 1, 10, 10) of four shapes at random places, with noise, and their class
    numbers.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    rows = torch.randint(1, SIDE - 5, (count, 1, 1), generator=generator)
    columns = torch.randint(1, SIDE - 5, (count, 1, 1), generator=generator)
    y, x = torch.arange(SIDE)[:, None] - rows, torch.arange(SIDE)[None, :] - columns
    inside = (y >= 0) & (y < 5) & (x >= 0) & (x < 5)
    shapes = torch.stack(
        [inside & (y == 2), inside & (x == 2), inside & (x == y), inside & ((x % 4 == 0) | (y % 4 == 0))]
    )
    ink = shapes[labels, torch.arange(count)].float()
    noise = 0.2 * torch.randn(count, SIDE, SIDE, generator=generator)
    return (0.2 + 0.5 * ink + noise).clamp(0, 1)[:, None], labels


def trained() -> nn.Module:
    """A convolutional network with more channels than the task needs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 5 * 5, 32), nn.ReLU(), nn.Linear(32, len(CLASSES)),
    )  # fmt: skip
    images, labels = drawings(1500, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(8):
        for batch in torch.randperm(len(images)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    model = trained()
    images, labels = drawings(1000, seed=2)  # labelled images only measure; pruning never sees them
    example = images[:1]

    print("1. What can be removed")
    for group in secateur.inspect(model, example).groups:
        state = f"stays whole: {group.pinned}" if group.pinned else "prunable"
        print(f"layer {group.name}: {group.units} units, {state}")

    print("\n2. Prune to several sizes, without data")
    print("removed   parameters   accuracy   agreement   verdict")
    results = {}
    for share in (0.25, 0.5, 0.75):
        result = secateur.prune(model, example, remove=share, input_bounds=(0.0, 1.0), samples=512)
        report = secateur.evaluate(result.model, images, labels, original=model)
        assert result.verdict is not None and report.agreement is not None
        print(
            f"{share:7.0%}   {result.after.parameters:10,}   {report.accuracy[1]:8.1%}   "
            f"{report.agreement:9.1%}"
            f"   {result.verdict.word}"
        )
        results[share] = result
    print(
        f"none      {results[0.5].before.parameters:10,}   "
        f"{secateur.evaluate(model, images, labels).accuracy[1]:8.1%}"
    )

    print("\n3. With unlabelled images of your own, the verdict is firmer")
    own, _ = drawings(300, seed=3)
    result = secateur.prune(model, example, remove=0.5, input_bounds=(0.0, 1.0), calibration=own)
    print(result.verdict)

    print("\n4. Stop before a budget is exceeded")
    result = secateur.prune(
        model,
        example,
        remove=0.9,
        input_bounds=(0.0, 1.0),
        calibration=own,
        guard={"agreement": 0.97},
        step=0.2,
    )
    print(f"units: {result.before.units} -> {result.after.units}")
    print(result.stopped)

    print("\n5. The recipe rebuilds the same weights")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.recipe.json")
        result.recipe.save(path)
        again = secateur.replay(model, secateur.Recipe.load(path))
    same = all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))
    print(f"same bits: {same}")


if __name__ == "__main__":
    main()
