"""The same bits from the same inputs and seed, whatever is set in torch, and from several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from architectures import ARCHITECTURES
from secateur.report.recipe import digest_of
from secateur.torch_state import ALONE, reproducible


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 36, 20), nn.Softmax(1),
    ).eval()  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "convolutions": (convolutional, lambda: torch.zeros(2, 3, 8, 8)),
    "attention": (
        ARCHITECTURES["vision_transformer"].build,
        lambda: ARCHITECTURES["vision_transformer"].example()[0],
    ),
}


def threads(count: int) -> Callable[[], AbstractContextManager[None]]:
    return lambda: putting_back(torch.get_num_threads, torch.set_num_threads, count)


@contextmanager
def putting_back(get: Callable[[], Any], put: Callable[[Any], Any], value: Any) -> Iterator[None]:
    before = get()
    put(value)
    try:
        yield
    finally:
        assert get() == value, "a command left another setting behind"
        put(before)


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "two threads": threads(2),
    "three threads": threads(3),
    "float64 by default": lambda: putting_back(
        torch.get_default_dtype, torch.set_default_dtype, torch.float64
    ),
    "another device by default": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "coarse products": lambda: putting_back(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "strict algorithms": lambda: putting_back(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "coarse products, by the newer name": lambda: putting_back(
        lambda: torch.backends.mkldnn.matmul.fp32_precision,
        lambda name: setattr(torch.backends.mkldnn.matmul, "fp32_precision", name),
        "bf16",
    ),
    "fine convolutions of a GPU": lambda: putting_back(
        lambda: torch.backends.cudnn.allow_tf32,
        lambda on: setattr(torch.backends.cudnn, "allow_tf32", on),
        False,
    ),
    "without oneDNN": lambda: putting_back(
        lambda: torch.backends.mkldnn.enabled,
        lambda on: torch.backends.mkldnn.set_flags(on, _fp32_precision=None),
        False,
    ),
}


def outcome(model: nn.Module, example: Tensor, method: str) -> tuple[str, str, str]:
    result = secateur.prune(model, example, method=method, remove=0.4, samples=96, seed=3)
    return result.recipe.result, result.recipe.solved, digest_of(dict(result.model.state_dict()))


@cache
def usual(name: str, method: str) -> tuple[str, str, str]:
    build, example = NETWORKS[name]
    return outcome(build(), example(), method)


@pytest.mark.slow
@pytest.mark.sweep
@pytest.mark.parametrize("method", ["reconstruct", "saliency", "stochastic"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("state", STATES)
def test_settings_of_torch_change_no_bit(name: str, method: str, state: str) -> None:
    build, example = NETWORKS[name]
    expected, model, x = usual(name, method), build(), example()
    with STATES[state]():
        assert outcome(model, x, method) == expected


def test_products_on_a_gpu_keep_all_bits() -> None:
    """Its convolutions round to ten bits by default, which no bound allows for."""

    def settings() -> tuple[Any, ...]:
        cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
        return cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic, cuda.allow_tf32, cuda.fp32_precision

    before = settings()
    with reproducible(nn.Linear(2, 2)):
        assert settings() == (False, False, True, False, "ieee")
    assert settings() == before


@pytest.mark.slow
def test_neither_does_another_memory_format() -> None:
    build, example = NETWORKS["convolutions"]
    model, x = (v.to(memory_format=torch.channels_last) for v in (build(), example()))  # type: ignore[call-overload]
    assert outcome(model, x, "reconstruct")[:2] == usual("convolutions", "reconstruct")[:2]


@pytest.mark.long
def test_a_model_of_float64_is_pruned_alike_under_either_default() -> None:
    build, example = NETWORKS["convolutions"]
    model, x = build().double(), example().double()
    expected = outcome(model, x, "reconstruct")
    with STATES["float64 by default"]():
        assert outcome(model, x, "reconstruct") == expected


@pytest.mark.long
def test_threads_of_one_process() -> None:
    """Prune, certify, evaluate and inspect beside each other: no error, and the bits of a run alone."""

    def work(model: nn.Module, x: Tensor) -> tuple[str, str, str]:
        found = outcome(model, x, "reconstruct")
        secateur.inspect(model, x)
        small = secateur.prune(model, x, method="scale", remove=0.2).model
        certificate = secateur.certify(model, small, x, method="interval", attack_steps=0)
        assert certificate.drift
        images = torch.linspace(0, 1, 8 * x[0].numel()).reshape(8, *x.shape[1:])
        report = secateur.evaluate(small, images, torch.zeros(8, dtype=torch.int64), original=model)
        assert report.samples == 8 and report.cost.macs > 0
        return found

    names = [*NETWORKS, *NETWORKS]
    models = [NETWORKS[name][0]() for name in names]  # torch's own generator is one for all threads
    expected = [usual(name, "reconstruct") for name in names]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, models, (NETWORKS[name][1]() for name in names))) == expected
    assert ALONE.acquire(blocking=False)
    ALONE.release()


@pytest.mark.slow
def test_threads_with_one_model(tmp_path: Path) -> None:
    """torch.export puts its own tensors into the model; nobody who runs or writes it meanwhile may see
    them.
    """
    build, example = NETWORKS["convolutions"]
    model, x = build(), example()
    images, labels = torch.rand(64, *x.shape[1:]), torch.zeros(64, dtype=torch.int64)
    expected = usual("convolutions", "scale"), secateur.evaluate(model, images, labels).accuracy

    def pruned() -> str:
        return outcome(model, x, "scale")

    def measured() -> dict[int, float]:
        attacks = [secateur.PGD(0.01, steps=3)]
        return secateur.evaluate(model, images, labels, attacks=attacks, batch_size=4).accuracy

    def written(name: str) -> None:
        secateur.save_model(tmp_path / name, model, x)

    with ThreadPoolExecutor(6) as pool:
        runs = [pool.submit(pruned) for _ in range(4)]
        others = [pool.submit(measured) for _ in range(4)]
        more = [pool.submit(secateur.latency, model, model, x), pool.submit(written, "a.pt2")]
        more += [pool.submit(written, "a.safetensors")]
        assert {run.result() for run in runs} == {expected[0]}
        assert all(other.result() == expected[1] for other in others)
        for each in more:
            each.result()


def prune_in_a_process(seed: int) -> str:
    build, example = NETWORKS["convolutions"]
    return secateur.prune(build(), example(), remove=0.5, samples=64, seed=seed).recipe.result


@pytest.mark.long
def test_processes_of_joblib() -> None:
    joblib = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(prune_in_a_process)(seed) for seed in (0, 1, 0))
    assert found[0] == found[2] == prune_in_a_process(0)


def test_the_smallest_numbers_count() -> None:
    """Where the processor flushes them to 0, a certificate would miss what they are multiplied to, and ranks
    change.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    with torch.no_grad():
        model[0].weight.abs_().mul_(1e-39 / float(model[0].weight.max()))
        model[0].bias.zero_()
        model[2].weight.mul_(1e38)
    small = secateur.prune(model, torch.zeros(2, 4), method="scale", remove=0.34, round_to=1).model
    expected = secateur.certify(model, small, torch.zeros(2, 4), attack_steps=0)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        found = secateur.certify(model, small, torch.zeros(2, 4), attack_steps=0)
        again = secateur.prune(model, torch.zeros(2, 4), method="scale", remove=0.34, round_to=1).model
        assert float(torch.tensor(1e-40) * 0.5) == 0.0, "the caller's setting is back"
    finally:
        torch.set_flush_denormal(False)
    assert (found.lower, found.upper) == (expected.lower, expected.upper)
    assert max(map(abs, expected.lower[0] + expected.upper[0])) > 0.01
    assert digest_of(dict(again.state_dict())) == digest_of(dict(small.state_dict()))
