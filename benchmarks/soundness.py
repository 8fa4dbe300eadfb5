"""Whether anything violates a certificate: random networks, each with a family of ops and a head of its own.

Each network is pruned and certified on two balls, with rounding included where its ops have a bound. A search
(random points, corners, and ascent along gradients of the models as they run) then looks for inputs that
violate a claim: in float64, and, where the claims include rounding, in the deployed arithmetic, once as a
batch and once sample by sample with other kernels. Any violation ends the run with an error. Networks that
soundness.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InputError, SecateurError
from shared import arguments, machine, markdown
from soundness_networks import FAMILIES, HEADS, Network, network

STEPS, RANDOM = 6, 24
_SINGLY = 7  # one point in so many is run by itself, too
_TOLERANCE = 1e-9  # relative, of float64 as a stand-in for real numbers


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", type=int, default=240)
    parser.add_argument("--first", type=int, default=0, help="number of the first network")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    path = options.output / "soundness.json"
    rows: dict[str, Any] = json.loads(path.read_text())["results"] if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in range(options.first, options.networks):
        if str(number) in rows:
            continue
        rows[str(number)] = row(number)
        print(number, rows[str(number)], file=sys.stderr, flush=True)
        path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
    report = table(rows)
    (options.output / "soundness.md").write_text(report)
    print(report)


def row(number: int) -> dict[str, Any]:
    """One network: family, head, precision and radius go round in cycles of different length."""
    torch.manual_seed(number)
    family, head = list(FAMILIES)[number % len(FAMILIES)], list(HEADS)[number // len(FAMILIES) % len(HEADS)]
    # recurrent layers start from zeros that the graph makes in float32
    double, eps = number % 3 == 2 and family != "recurrent", (0.0, 0.002, 0.02, 0.1)[number % 4]
    model, x = network(family, head)
    if double:
        model, x = model.double(), tuple(t.double() if t.is_floating_point() else t for t in x)
    named = {"family": family, "head": head, "dtype": "float64" if double else "float32", "eps": eps}
    try:
        small = secateur.prune(model, x, remove=0.3, method="scale", input_bounds=(-1, 1), samples=32).model
    except SecateurError as error:  # nothing that could be removed
        return {**named, "skipped": str(error)[:100]}
    settings: dict[str, Any] = {"inputs": x, "eps": eps, "input_bounds": (-1, 1), "head": HEADS[head].name}
    settings["method"] = "interval" if number % 7 == 6 else "linear"
    settings["attack_steps"] = 4
    try:
        found = secateur.certify(model, small, x, arithmetic="float", **settings)
    except InputError as error:
        found = secateur.certify(model, small, x, arithmetic="real", **settings)
        named["real"] = str(error)[:160]
    return {**named, **searched(found, model, small, x, eps, HEADS[head].name)}


# --- the search ---------------------------------------------------------------------------------------------


def searched(
    found: secateur.Certificate,
    model: Network,
    small: nn.Module,
    x: tuple[Tensor, ...],
    eps: float,
    head: str,
) -> dict[str, Any]:
    """What the points of both balls show; raises where one violates a claim."""
    points = [points_of(model, small, x, eps, ball) for ball in range(len(x[0]))]
    runs = {"float64": _in_float64}
    if found.arithmetic != "real":
        runs |= {"batch": _as_batch, "single": _one_by_one}
    share = 0.0
    for name, run in runs.items():
        tolerance = _TOLERANCE if name == "float64" else 0.0
        broken: dict[str, int] = defaultdict(int)
        for ball, inside in enumerate(points):
            f, g = (run(m, inside) for m in (model, small))
            at = 0 if name == "single" else RANDOM
            share = max(share, _check_drift(found, ball, f[1], g[1], tolerance, name))
            if found.agreement is not None:
                for claim, holds in _kept(f[1], g[1], head, at).items():
                    broken[claim] += not holds
                _check_margin(found, ball, f, g, head, name)
        for claim, count in broken.items():
            certain = getattr(found, claim).certified * len(points)
            assert len(points) - count >= certain - 1e-9, f"{name}: {claim} is violated"
    rounding = None if found.inference_rounding is None else max(found.inference_rounding)
    return {
        "arithmetic": found.arithmetic,
        "points": sum(len(p[0]) for p in points),
        "drift": max(found.drift),
        "rounding": rounding,
        "measured": _measured(model, small, points),
        "found / certified": share,
    }


def points_of(
    model: Network, small: nn.Module, x: tuple[Tensor, ...], eps: float, ball: int
) -> tuple[Tensor, ...]:
    """Inputs in one ball, in the models' own format: random, at corners, and where gradients lead."""
    centre = tuple(t[ball : ball + 1] for t in x)
    moving = [t.is_floating_point() for t in centre]
    batch = []
    for t, moves in zip(centre, moving, strict=True):
        if not moves:
            batch.append(t.expand(RANDOM, *t.shape[1:]))
            continue
        step = torch.rand(RANDOM, *t.shape[1:], dtype=t.dtype) * 2 - 1
        step[: RANDOM // 2] = step[: RANDOM // 2].sign()
        batch.append(_inside(t + eps * step, t, eps))
    kept = [tuple(batch), centre]
    for step in range(STEPS if eps else 0):
        live = [t.clone().requires_grad_(m) for t, m in zip(batch, moving, strict=True)]
        change = (small(*live) - model(*live)).flatten(1)
        goal = change.abs().amax(1).sum() + change[:, step % change.shape[1]].sum()
        gradients = torch.autograd.grad(goal, [t for t, m in zip(live, moving, strict=True) if m])
        ways = iter(gradients)
        size = eps * (1 - step / STEPS)
        batch = [
            _inside(t.detach() + size * next(ways).sign(), c, eps) if m else t
            for t, c, m in zip(live, centre, moving, strict=True)
        ]
        kept.append(tuple(batch))
    return tuple(torch.cat(parts) for parts in zip(*kept, strict=True))


def _inside(points: Tensor, centre: Tensor, eps: float) -> Tensor:
    """Points of the ball and of the box; a number that rounding took outside is that of the centre."""
    low, high = (centre.double() - eps).clamp(min=-1), (centre.double() + eps).clamp(max=1)
    points = torch.minimum(torch.maximum(points.double(), low), high).to(centre.dtype)
    fits = (points.double() >= low) & (points.double() <= high)
    return torch.where(fits, points, centre)


Seen = tuple[Tensor, Tensor]  # scores before the head (of the original), and outputs, in float64


@torch.no_grad()
def _as_batch(model: nn.Module, x: tuple[Tensor, ...]) -> Seen:
    scores = model.scores(*x) if isinstance(model, Network) else torch.zeros(len(x[0]))
    return scores.double(), model(*x).double()


@torch.no_grad()
def _one_by_one(model: nn.Module, x: tuple[Tensor, ...]) -> Seen:
    with torch.backends.mkldnn.flags(enabled=False):
        seen = [_as_batch(model, tuple(t[i : i + 1] for t in x)) for i in _single(len(x[0]))]
    return torch.cat([s for s, _ in seen]), torch.cat([y for _, y in seen])


def _single(count: int) -> list[int]:
    """The centre first, then some of all points."""
    return [RANDOM, *range(0, count, _SINGLY)]


@torch.no_grad()
def _in_float64(model: nn.Module, x: tuple[Tensor, ...]) -> Seen:
    state = {name: t.clone() for name, t in model.state_dict().items()}
    dtype = next(model.parameters()).dtype
    try:
        return _as_batch(model.double(), tuple(t.double() if t.is_floating_point() else t for t in x))
    finally:
        model.to(dtype).load_state_dict(state)


# --- the claims ---------------------------------------------------------------------------------------------


def _check_drift(
    found: secateur.Certificate, ball: int, f: Tensor, g: Tensor, tolerance: float, name: str
) -> float:
    low, high = (torch.tensor(end[ball], dtype=torch.float64) for end in (found.lower, found.upper))
    change = (g - f).flatten(1)
    slack = tolerance * (1 + f.flatten(1).abs())
    assert ((change >= low - slack) & (change <= high + slack)).all(), f"{name}: a drift is violated"
    most = float(torch.maximum(-low, high).max())
    return float(change.abs().max()) / most if most else 0.0


def _decided(outputs: Tensor, head: str) -> Tensor:
    if head in ("logits", "probabilities"):
        return outputs.argmax(1, keepdim=True)
    return (outputs > (0.5 if head in ("multi_label", "binary_probability") else 0.0)).long()


def _kept(f: Tensor, g: Tensor, head: str, at: int) -> dict[str, bool]:
    """Whether the points leave each claim about this ball standing; the centre is `at` one place of them."""
    first, second = _decided(f, head), _decided(g, head)
    original, pruned = bool((first == first[at]).all()), bool((second == second[at]).all())
    return {
        "agreement": original and bool((second == first[at]).all()),
        "stable_original": original,
        "stable_pruned": pruned,
    }


def _check_margin(found: secateur.Certificate, ball: int, f: Seen, g: Seen, head: str, name: str) -> None:
    """Where the margin of f is above δ, both decide alike."""
    assert found.agreement_margin is not None
    scores = f[0]
    if head in ("logits", "probabilities"):
        best = scores.topk(2, 1).values
        margin = best[:, 0] - best[:, 1]
    else:
        margin = scores.abs().flatten(1).amin(1)
    above = margin > found.agreement_margin.proved[ball]
    alike = (_decided(f[1], head) == _decided(g[1], head)).flatten(1).all(1)
    assert bool(alike[above].all()), f"{name}: the margin is violated"


def _measured(model: Network, small: nn.Module, points: list[tuple[Tensor, ...]]) -> float:
    """How far g − f in the models' own format is from that in float64, at most."""
    most = 0.0
    for inside in points:
        ours, exact = ([run(m, inside)[1] for m in (model, small)] for run in (_as_batch, _in_float64))
        most = max(most, float(((ours[1] - ours[0]) - (exact[1] - exact[0])).abs().max()))
    return most


def table(rows: dict[str, dict[str, Any]]) -> str:
    done = [value for value in rows.values() if "skipped" not in value]
    lines = []
    for family in FAMILIES:
        those = [value for value in done if value["family"] == family]
        rounded = [value for value in those if value["arithmetic"] != "real"]
        ratios = [v["rounding"] / v["measured"] for v in rounded if v["measured"]]
        lines.append(
            [
                family,
                f"{len(those)}",
                f"{len(rounded)}",
                f"{sum(value['points'] for value in those):,}",
                f"{max((value['found / certified'] for value in those), default=0):.3f}",
                f"{sorted(ratios)[len(ratios) // 2]:.0f}" if ratios else "",
                f"{min(ratios):.1f}" if ratios else "",
            ]
        )
    header = ["family", "networks", "rounding included", "points", "largest found / certified"]
    header += ["rounding bound / measured, median", "least"]
    note = f"{len(done)} networks, {sum(v['points'] for v in done):,} points, no violation.\n\n"
    return "# Soundness\n\n" + note + markdown(header, lines)


if __name__ == "__main__":
    main()
