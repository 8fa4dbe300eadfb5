"""Statistical certificates: the claims hold as often as they say, and they say what they are."""

from __future__ import annotations

import inspect
import json
import re
from functools import cache
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import Tensor, nn

import secateur
from architectures import ARCHITECTURES
from command import run
from secateur import StatisticalCertificate
from secateur.certify import statistical
from secateur.certify.draws import in_balls
from secateur.certify.input_set import boxes_of
from secateur.certify.statistical import certify_by_sampling
from secateur.cli.certify import certify_command
from secateur.cli.names import Distribution, Independent, Norm
from secateur.errors import InputError, SecateurWarning
from secateur.evaluate.intervals import rank_for, share_at_most, trials_for
from secateur.graph.capture import capture
from secateur.report.tables import upward
from trained import blobs


def linear(*rows: tuple[float, float]) -> nn.Module:
    """Outputs factor · x + offset of one input x."""
    model = nn.Linear(1, len(rows))
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[factor] for factor, _ in rows]))
        model.bias.copy_(torch.tensor([offset for _, offset in rows]))
    return model.eval()


# f decides by x > 0.5, g by 0.96 x > 0.5: of x uniform in [0, 1], decisions change between 0.5 and 0.5 / 0.96
F, G = linear((1.0, -0.5), (0.0, 0.0)), linear((0.96, -0.5), (0.0, 0.0))
FLIPS = 0.5 / 0.96 - 0.5
UNIT: dict[str, Any] = {"inputs": torch.tensor([[0.5]]), "eps": 0.5}


# --- the bounds, against exact probabilities ----------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 7, 60, 500])
@pytest.mark.parametrize("tail", [0.2, 0.01, 1e-6])
def test_a_share_is_above_its_bound_no_more_often_than_said(trials: int, tail: float) -> None:
    bounds = np.array([share_at_most(k, trials, tail) for k in range(trials + 1)])
    assert (np.diff(bounds) >= 0).all() and bounds[-1] == 1
    for share in (0.001, 0.03, 0.3, 0.9):
        missed = binom.pmf(np.arange(trials + 1), trials, share)[bounds < share].sum()
        assert missed <= tail * (1 + 1e-9)
    enough = trials_for(0.03, tail)
    assert share_at_most(0, enough, tail) <= 0.03
    assert enough == 1 or share_at_most(0, enough - 1, tail) > 0.03


@pytest.mark.parametrize("trials", [1, 7, 60, 500])
@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.99])
def test_the_rank_of_a_quantile_is_the_greatest_that_holds(trials: int, quantile: float) -> None:
    for tail in (0.2, 0.01, 1e-6):
        rank = rank_for(quantile, trials, tail)
        # fewer than `rank` of the draws reach the quantile, each with probability 1 − quantile
        assert binom.cdf(rank - 1, trials, 1 - quantile) <= tail * (1 + 1e-9)
        assert binom.cdf(rank, trials, 1 - quantile) > tail or rank + 1 > trials * (1 - quantile)


def test_shares_of_their_own_are_bounded_on_the_mean() -> None:
    """Hoeffding: as for balls that are drawn from equally often, whose rates differ."""
    trials, generator = 60, np.random.default_rng(0)
    bounds = np.array([share_at_most(k, trials, 0.05) for k in range(trials + 1)])
    for most in (0.1, 0.5, 1.0):
        shares = generator.uniform(0, most, trials)
        exact = np.array([1.0])
        for share in shares:
            exact = np.convolve(exact, [1 - share, share])
        assert exact[bounds < shares.mean()].sum() <= 0.05


# --- coverage of the whole ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("confidence", "centres"), [(0.8, (0.5,)), (0.9, (0.1, 0.45, 0.8))])
def test_a_thousand_certificates_miss_no_more_often_than_they_say(
    monkeypatch: pytest.MonkeyPatch, confidence: float, centres: tuple[float, ...]
) -> None:
    """One certificate misses if any of its claims does: on flips, on the margin, or on a quantile."""
    known = cache(lambda model: capture(model, torch.zeros(2, 1)))
    monkeypatch.setattr(statistical, "capture", lambda model, example: known(model))
    x = torch.tensor(centres)[:, None]
    eps = 0.5 if len(centres) == 1 else 0.1
    grid = torch.cat([torch.linspace(max(0.0, c - eps), min(1.0, c + eps), 20001) for c in centres]).double()
    flips = float(((grid > 0.5) != (0.96 * grid > 0.5)).double().mean())
    drift = 0.04 * grid
    margin = float(drift.quantile(0.9))
    misses = 0
    for seed in range(1000):
        found = certify_by_sampling(
            F,
            G,
            inputs=x,
            eps=eps,
            confidence=confidence,
            rate=0.05,
            margin=margin,
            quantiles=[0.5, 0.95],
            draw_seed=seed,
        ).overall
        assert found.changed_at_most is not None and found.exceeded_at_most is not None
        below = [bound.at_most < float(drift.quantile(bound.share)) - 1e-6 for bound in found.quantiles]
        misses += found.changed_at_most < flips or found.exceeded_at_most < 0.1 - 1e-4 or any(below)
    assert misses <= binom.ppf(1 - 1e-6, 1000, 1 - confidence)


def test_counts_are_those_of_the_distribution() -> None:
    found = certify_by_sampling(F, G, **UNIT, margin=0.01, draw_seed=1)
    row = found.overall
    assert row.draws == trials_for(0.001, found.tail) and found.claims == 4
    assert found.tail == pytest.approx(0.001 / 4)
    assert row.changed == pytest.approx(FLIPS * row.draws, abs=5 * (FLIPS * row.draws) ** 0.5)
    assert row.exceeded == pytest.approx(0.75 * row.draws, rel=0.03)
    assert row.changed_at_most == share_at_most(row.changed or 0, row.draws, found.tail)
    half, most = row.quantiles
    assert half.share == 0.5 and half.at_most == pytest.approx(0.02, rel=0.05) and most.rank == 1
    assert 0.039 < most.at_most == row.largest <= 0.04 + 1e-7


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_draws_are_in_their_ball_and_the_box_and_fill_it(norm: str) -> None:
    centres = torch.tensor([[0.5, 0.5], [0.95, 0.1]])
    points, generator = [centres.double()], torch.Generator().manual_seed(0)
    graph = capture(nn.Linear(2, 2).eval(), centres)
    boxes = boxes_of(graph, (0.0, 1.0), points, 0.2 if norm == "linf" else None)
    draws = in_balls(points, boxes, 0.2, norm, generator)
    rows = draws.rows(4000)
    (x,) = draws.draw(rows)
    away = x - centres[rows]
    length = away.abs().amax(1) if norm == "linf" else away.norm(dim=1)
    assert float(length.max()) <= 0.2 + 1e-9 and float(x.min()) >= 0 and float(x.max()) <= 1
    inner = length[rows == 0]
    # half of the radius holds a quarter of a ball in two dimensions
    assert float((inner < 0.1).double().mean()) == pytest.approx(0.25, abs=0.03)
    corner = (away[rows == 0].abs() > 0.15).all(1).double().mean()
    assert float(corner) == pytest.approx(0.0625 if norm == "linf" else 0.0, abs=0.02)


def test_claims_on_each_ball_share_the_confidence() -> None:
    x = torch.tensor([[0.1], [0.51], [0.9]])
    found = certify_by_sampling(F, G, inputs=x, eps=0.01, each=True, rate=0.02, draw_seed=0)
    assert found.claims == 3 * 4 and len(found.each) == 3
    assert [row.draws for row in found.each] == [trials_for(0.02, found.tail)] * 3
    assert found.each[0].changed == found.each[2].changed == 0 < (found.each[1].changed or 0)
    assert found.overall.draws == 3 * found.each[0].draws
    assert found.overall.changed == found.each[1].changed
    assert "worst ball: decisions that change" in str(found)


# --- the distributions --------------------------------------------------------------------------------------


def test_surrogates_are_fresh_and_selected_ones_are_refused() -> None:
    model, x, _ = blobs()
    small = secateur.prune(model, x[:2], remove=0.3, method="scale").model
    rows = [
        certify_by_sampling(model, small, x[:2], distribution="surrogates", rate=0.02, surrogate=name).overall
        for name in ("shapes", "uniform", "pink")
    ]
    assert all(row.draws == rows[0].draws for row in rows) and len({row.largest for row in rows}) == 3
    with pytest.raises(InputError, match="surrogate='auto': give shapes, uniform or pink"):
        certify_by_sampling(model, small, x[:2], distribution="surrogates", surrogate="auto")


def test_pictures_are_drawings_of_every_kind() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
    found = certify_by_sampling(model, model, torch.rand(2, 1, 8, 8), distribution="surrogates", rate=0.05)
    assert found.overall.changed == 0 and found.overall.largest == 0
    assert found.distribution.described == "fresh draws of the surrogate shapes, which is made without data"


def test_own_data_are_used_once_and_too_few_are_said() -> None:
    model, x, _ = blobs()
    small = secateur.prune(model, x[:2], remove=0.3, method="scale").model
    with pytest.warns(SecateurWarning, match=r"inputs: 300 of them are too few to show a rate of 0.001"):
        found = certify_by_sampling(model, small, distribution="data", inputs=x)
    with torch.no_grad():
        differ = int((model(x).argmax(1) != small(x).argmax(1)).sum())
        drift = float((model(x) - small(x)).abs().max())
    assert found.overall.draws == 300 and found.overall.changed == differ
    assert found.overall.largest == pytest.approx(drift, rel=1e-6)
    assert found.overall.quantiles[1].at_most == inf and found.overall.quantiles[1].rank == 0
    assert any("independent draws from the source" in line for line in found.assumptions)
    assert "infinite" in str(found)


def test_the_seed_is_drawn_once_the_models_are_fixed_and_makes_the_draws() -> None:
    drawn = [certify_by_sampling(F, G, **UNIT, rate=0.02) for _ in range(2)]
    assert drawn[0].seed != drawn[1].seed and drawn[0].overall != drawn[1].overall
    assert drawn[0].seed_from == "system" and drawn[0].commitment == drawn[1].commitment
    again = certify_by_sampling(F, G, **UNIT, rate=0.02, draw_seed=drawn[0].seed)
    assert again.overall == drawn[0].overall and again.seed_from == "caller"
    assert any("only if it was not chosen with regard to the result" in line for line in again.assumptions)
    other = certify_by_sampling(F, F, **UNIT, rate=0.02, draw_seed=drawn[0].seed)
    assert other.commitment != again.commitment


# --- models -------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """Outputs that are NaN for x above 0.75."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 1 - x], 1) + (0.75 - x).sqrt() * 0


def test_a_nan_is_a_change() -> None:
    found = certify_by_sampling(Odd().eval(), Odd().eval(), **UNIT, head="logits", rate=0.02).overall
    assert found.changed == pytest.approx(found.draws / 4, rel=0.5) and found.largest == inf
    assert found.quantiles[0].at_most == 0 and found.quantiles[1].at_most == inf


def test_a_regression_has_drift_alone() -> None:
    found = certify_by_sampling(F, G, **UNIT, head="none", rate=0.02)
    assert found.overall.changed is None and found.undecided and found.claims == 2
    assert "decisions" not in str(found)


def test_of_dense_outputs_each_draw_looks_at_one_place() -> None:
    class Dense(nn.Module):
        def __init__(self, gap: float) -> None:
            super().__init__()
            self.gap = nn.Parameter(torch.tensor([gap, 0.0, 0.0, 0.0]))

        def forward(self, x: Tensor) -> Tensor:
            """One place in four changes its decision, for every input."""
            other = x[:, :, :1].expand(-1, -1, 4) * 0
            return torch.stack([other + self.gap, other], 1).softmax(1)

    pair = Dense(0.5).eval(), Dense(-0.5).eval()
    found = certify_by_sampling(
        *pair, torch.rand(2, 1, 1), distribution="surrogates", surrogate="uniform", head="probabilities"
    )
    assert found.overall.changed == pytest.approx(found.overall.draws / 4, rel=0.2)


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture(name: str) -> None:
    """Whatever captures: no rule for bounds is needed."""
    architecture = ARCHITECTURES[name]
    model, x = architecture.build(), architecture.example()
    settings: dict[str, Any] = {"distribution": "surrogates", "surrogate": "uniform", "input_bounds": (-1, 1)}
    found = certify_by_sampling(model, model, x, rate=0.1, confidence=0.9, head="none", **settings)
    assert found.overall.largest == 0 and found.overall.draws == trials_for(0.1, found.tail)


def test_float64_stands_beside_what_was_run() -> None:
    model, x, _ = blobs()
    found = certify_by_sampling(model, model, inputs=x[:2], eps=0.1, rate=0.05)
    measured = found.measured_rounding
    assert measured.dtype == "float32" and 0 < measured.pruned < 1e-4 and measured.draws <= 256
    double, inputs = linear((1.0, 0.0)).double(), UNIT["inputs"].double()
    exact = certify_by_sampling(double, double, inputs=inputs, eps=0.5, rate=0.05)
    assert exact.measured_rounding.dtype == "float64" and exact.measured_rounding.pruned == 0


@pytest.mark.slow
def test_a_quantised_file_is_run_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4)).eval()
    x = torch.rand(64, 1, 8, 8)
    secateur.save_model(tmp_path / "net.onnx", model, x[:2])
    secateur.quantize(secateur.load_model(tmp_path / "net.onnx"), calibration=x, latency=False).save(
        tmp_path / "int8.onnx"
    )
    np.save(tmp_path / "x.npy", x.numpy())
    words = ("net.onnx", "int8.onnx", "--confidence", "0.99", "--rate", "0.05", "--data", "x.npy")
    done = run(tmp_path, "certify", *words, "--eps", "0.01", "--samples", "5", "-o", "c.json")
    assert done.returncode == 0, done.stderr
    assert "pruned model run by onnxruntime" in done.stdout
    found = StatisticalCertificate.load(tmp_path / "c.json")
    assert found.measured_rounding.runtime == "onnxruntime" and found.measured_rounding.pruned is None
    assert 0 < found.overall.largest < 1 and found.original != found.pruned
    done = run(tmp_path, "certify", *words[:2], "--data", "x.npy", "--eps", "0.01")
    assert done.returncode == 1 and "--confidence runs it as it is" in done.stderr, done.stderr


# --- what it says -------------------------------------------------------------------------------------------


def test_it_survives_its_file_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    found = certify_by_sampling(Odd().eval(), Odd().eval(), **UNIT, head="logits", rate=0.02, margin=0.5)
    found.save(path)
    assert StatisticalCertificate.load(path) == found
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert record["kind"] == "statistical" and record["correction"] == "Bonferroni"
    assert not {"lower", "upper", "agreement"} & record.keys()
    for change in ({"changed_at_most": 0.0}, {"changed": 0}, {"draws": 10**6}):
        path.write_text(json.dumps(record | {"overall": record["overall"] | change}))
        with pytest.raises(InputError, match="the bounds do not follow from the counts"):
            StatisticalCertificate.load(path)
    path.write_text(json.dumps(record | {"confidence": 0.9999}))
    with pytest.raises(InputError, match="the bounds do not follow from the counts"):
        StatisticalCertificate.load(path)
    path.write_text(json.dumps(record | {"proved": True}))
    with pytest.raises(InputError, match="is not a statistical certificate of version 1: proved"):
        StatisticalCertificate.load(path)
    path.write_text('{"schema_version": 2}')
    with pytest.raises(InputError, match=r"this certificate is of version 2, which is newer .*"):
        StatisticalCertificate.load(path)


def test_neither_kind_of_certificate_is_read_as_the_other(tmp_path: Path) -> None:
    certify_by_sampling(F, G, **UNIT, rate=0.02).save(tmp_path / "sampled.json")
    with pytest.raises(InputError, match="is not a certificate of version 1"):
        secateur.Certificate.load(tmp_path / "sampled.json")


def test_it_never_speaks_of_proof() -> None:
    found = certify_by_sampling(F, G, **UNIT, rate=0.02)
    told = f"{found}\n{found._repr_html_()}\n{found.distribution.described}"
    assert not re.search(r"\b(certified|proves|guarantee)", told) and "Nothing is proved about" in told


@pytest.mark.parametrize("x", [0.00099991, 0.1, 1.0, 123456.0, 5e-324, 0.0])
def test_bounds_are_rounded_up(x: float) -> None:
    assert x <= float(upward(x)) <= x * 1.001 + 1e-300
    assert upward(inf) == "infinite"


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, its pruned form, and inputs in a file."""
    path = tmp_path_factory.mktemp("user")
    model, x, _ = blobs()
    secateur.save_model(path / "net.pt2", model, x[:2])
    small = secateur.prune(model, x[:2], remove=0.3, method="scale").model
    secateur.save_model(path / "small.pt2", small, x[:2])
    np.save(path / "x.npy", x.numpy())
    return path


@pytest.mark.slow
def test_the_command_writes_what_it_prints(folder: Path) -> None:
    words = ("certify", "net.pt2", "small.pt2", "--confidence", "0.99", "--rate", "0.02")
    balls = (*words, "--data", "x.npy", "--eps", "0.05", "--samples", "20", "--draw-seed", "3")
    done = run(folder, *balls, "--each", "--margin", "0.5", "-o", "sampled.json", "--json")
    assert done.returncode == 0, done.stderr
    found = StatisticalCertificate.load(folder / "sampled.json")
    assert json.loads(done.stdout) == json.loads((folder / "sampled.json").read_text())
    assert (found.seed, found.seed_from, found.margin, len(found.each)) == (3, "caller", 0.5, 20)
    assert found.claims == 4 * 21 and found.distribution.indices == tuple(range(20))
    done = run(folder, *words, "--distribution", "surrogates")
    assert done.returncode == 0, done.stderr
    assert "statistics, no proof" in done.stdout and "drawn after both models were read" in done.stdout
    done = run(folder, *words, "--distribution", "data", "--data", "x.npy")
    assert done.returncode == 0 and "300 inputs as draws from their source" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rate", "0.1"), "--rate goes with --confidence"),
        (("--each",), "--each goes with --confidence"),
        (("--confidence", "0.9"), "--distribution ball takes --data and --eps"),
        (
            ("--confidence", "0.9", "--distribution", "surrogates", "--eps", "1"),
            "surrogates takes neither --data nor --eps",
        ),
        (("--confidence", "0.9", "--vnnlib", "claim"), "--vnnlib is about proofs"),
        (("--confidence", "0.9", "--check", "sampled.json"), "which is a proof"),
        (("--confidence", "2", "--distribution", "surrogates"), "confidence=2.0: give a share"),
    ],
)
def test_options_that_do_not_fit_are_named(folder: Path, options: tuple[str, ...], said: str) -> None:
    done = run(folder, "certify", "net.pt2", "small.pt2", *options)
    assert done.returncode == 1 and said in done.stderr, done.stderr


def test_names_of_options_are_those_of_the_library() -> None:
    rules = statistical._RULES
    for name, offered in (("distribution", Distribution), ("norm", Norm), ("surrogate", Independent)):
        assert re.split(", | or ", rules[name].may_be) == list(offered)
    ours, theirs = (inspect.signature(f).parameters for f in (certify_command, certify_by_sampling))
    for name in ours.keys() & theirs.keys() - {"confidence", "input_bounds"}:
        assert theirs[name].default in (inspect.Parameter.empty, ours[name].default), name


# --- what is refused ----------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "confidence": ({"confidence": 1.0}, "confidence=1.0: give a share between 0 and 1"),
    "rate": ({"rate": 0}, "rate=0: give a share between 0 and 1"),
    "quantiles": ({"quantiles": [0.5, 1.0]}, r"quantiles=\(0.5, 1.0\): give a share"),
    "NaN": ({"margin": nan}, "margin=nan: give a drift of at least 0"),
    "no inputs": ({"inputs": None}, "distribution='ball' needs inputs"),
    "no radius": ({"eps": None}, "distribution='ball' needs eps"),
    "inputs": ({"distribution": "surrogates"}, "distribution='surrogates' takes no inputs"),
    "radius": ({"distribution": "data"}, "distribution='data' takes no eps"),
    "each": ({"distribution": "data", "eps": None, "each": True}, "each=True makes claims on each ball"),
    "unknown": ({"distribution": "normal"}, "distribution='normal': give ball, surrogates or data"),
    "indices": ({"indices": [1, 2]}, "indices: 2 of them; give one for each of the inputs"),
    "too many": ({"rate": 1e-9}, r"rate=1e-09 at confidence=0.999 takes [\d,]+ draws, over 100,000,000"),
    "other outputs": ({"pruned": linear((1.0, 0.0))}, r"the original gives \(2, 2\), the pruned .* \(2, 1\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        certify_by_sampling(
            **({"original": F, "pruned": G, "example_inputs": torch.rand(2, 1)} | UNIT | changes)
        )
