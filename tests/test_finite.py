"""Values that are not finite end in a finite model or in an error that names the node; nothing loops for
ever.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InputError, SecateurError, SecateurWarning, UnsupportedOpError
from secateur.graph.capture import capture
from secateur.graph.finite import finite_samples, first_not_finite
from secateur.methods import METHODS
from secateur.reconstruct.elimination import SolveError, factor
from secateur.samples import Calibration, draw_samples


class Head(nn.Module):
    """A function of the flat image, then two dense layers."""

    def __init__(self, function: Any, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.hidden, self.last = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, 4)
        self.function = function
        self.to(dtype)
        for parameter in self.parameters():
            parameter.data *= scale

    def forward(self, x: Tensor) -> Any:
        return self.last(self.hidden(self.first(self.function(x.flatten(1))).relu()).relu())


def standardised(x: Tensor) -> Tensor:
    """0/0 on a constant picture."""
    centred = x - x.mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt()


NETWORKS = {
    "logarithm of the box": lambda: Head(torch.log),
    "constant picture": lambda: Head(standardised),
    "root": lambda: Head(torch.sqrt),
    "never finite": lambda: Head(lambda x: x / 0.0),
    "weights of 1e20": lambda: Head(torch.relu, 1e20),
    "weights of 1e160": lambda: Head(torch.relu, 1e160, torch.float64),
    "half precision": lambda: Head(torch.relu, 3e3, torch.float16),
}


@pytest.mark.sweep
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore::secateur.errors.SecateurWarning")
def test_every_run_ends(name: str, method: str) -> None:
    model = NETWORKS[name]().eval()
    dtype = next(model.parameters()).dtype
    try:
        result = secateur.prune(
            model, torch.rand(2, 1, 4, 4, dtype=dtype), remove=0.5, method=method, samples=64
        )
    except SecateurError as error:
        assert "fault in secateur" not in str(error)
    else:
        assert all(bool(p.isfinite().all()) for p in result.model.parameters())


@pytest.mark.slow
def test_the_node_is_named() -> None:
    for function, text in (
        (lambda x: x / 0.0, r"div \(aten.div.Tensor"),
        (lambda x: (x - 2).log(), r"log \(aten.log"),
    ):
        with pytest.raises(
            InputError, match=f"finite on 0 of 64 samples.*goes wrong at {text}.*narrower input_bounds"
        ):
            secateur.prune(
                Head(function).eval(), torch.rand(2, 1, 4, 4), remove=0.5, samples=64, surrogate="uniform"
            )
    with pytest.raises(
        InputError,
        match=r"every kind of drawing.*aten.linear.default, layer hidden.*infinite values \(shape \(12,\)",
    ):
        secateur.prune(Head(torch.relu, 1e20).eval(), torch.rand(2, 1, 4, 4), remove=0.5, samples=64)
    with (
        pytest.warns(
            SecateurWarning, match="there is no verdict: shapes: the model's outputs are finite on 0"
        ),
        pytest.raises(UnsupportedOpError, match=r"div.*it divides by the number 0"),
    ):
        secateur.prune(Head(lambda x: x / 0.0).eval(), torch.rand(2, 1, 4, 4), remove=0.5, method="impact")


def test_samples_on_which_the_model_is_finite_are_drawn_again() -> None:
    """Half of the draws are constant pictures: three draws give 48 good ones of 32, and 32 are used."""

    def half_constant(source: Any, count: int) -> Tensor:
        x = torch.rand(count, 1, 4, 4, generator=source.generator)
        x[::2] = 0.5
        return x

    model = Head(standardised).eval()
    result = secateur.prune(model, torch.rand(2, 1, 4, 4), remove=0.5, samples=32, surrogate=half_constant)
    assert result.recipe.used.samples == 32


def test_fewer_samples_than_asked_are_warned_about() -> None:
    def mostly_constant(source: Any, count: int) -> Tensor:
        x = torch.full((count, 1, 4, 4), 0.5)
        x[:4] = torch.rand(4, 1, 4, 4, generator=source.generator)
        return x

    with pytest.warns(
        SecateurWarning, match="mostly_constant: .* finite on 12 of 32 samples; .* These 12 are used"
    ):
        secateur.prune(
            Head(standardised).eval(),
            torch.rand(2, 1, 4, 4),
            remove=0.5,
            samples=32,
            surrogate=mostly_constant,
        )


def test_fewer_samples_than_memory_holds_are_warned_about() -> None:
    """Inputs of 4 MB, which may take half of 256 MiB; small ones count as 4 KiB."""
    large = capture(nn.Sequential(nn.Flatten(), nn.Linear(10**6, 2)).eval(), torch.zeros(2, 10**3, 10**3))
    draw = partial(
        draw_samples, input_bounds=(0.0, 1.0), surrogate="uniform", device=None, seed=0, memory=2**28
    )
    with pytest.warns(
        SecateurWarning, match=r"samples: 33 of 10{12} are drawn: more take .* memory of 256 MiB"
    ):
        draw(large, calibration=None, count=10**12)
    own = Calibration(torch.rand(50, 10**3, 10**3), (0.0, 1.0))
    with pytest.warns(
        SecateurWarning, match=r"calibration: 33 inputs are used: .*raise it \(memory=, --memory\)"
    ):
        draw(large, calibration=own, count=48)
    small = capture(nn.Linear(4, 2).eval(), torch.zeros(2, 4))
    with pytest.warns(SecateurWarning, match="samples: 32768 of 40000 are drawn"):
        draw(small, calibration=None, count=40000)


def test_tokens_out_of_the_vocabulary_are_named() -> None:
    model = nn.Sequential(
        nn.Embedding(10, 8), nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 2)
    ).eval()
    with pytest.raises(InputError, match="calibration: the model refuses these inputs: IndexError"):
        secateur.prune(
            model, torch.zeros(2, 4, dtype=torch.int64), remove=0.5, calibration=torch.full((9, 4), 12)
        )


def test_what_is_odd_is_said() -> None:
    model = Head(torch.relu).eval()
    with pytest.raises(
        InputError, match=r"calibration: the values for .* 200 to 200, outside of .* 0 to 1: 0–255\?"
    ):
        secateur.prune(
            model, torch.zeros(2, 1, 4, 4), remove=0.5, calibration=torch.full((8, 1, 4, 4), 200.0)
        )
    with pytest.warns(SecateurWarning, match=r"input_bounds of \w+: the lower bound is the upper one"):
        secateur.prune(model, torch.zeros(2, 1, 4, 4), remove=0.5, input_bounds=(0.5, 0.5), samples=8)
    images, labels = torch.full((4, 1, 4, 4), 200.0), torch.zeros(4, dtype=torch.int64)
    (said,) = secateur.evaluate(model, images, labels).warnings
    assert said.startswith(
        "the images range from 200 to 200, outside of input_bounds 0 to 1: 0–255? divide by 255"
    )


def test_calibration_is_told_which_inputs_to_leave_out() -> None:
    x = torch.rand(20, 1, 4, 4)
    x[[3, 7]] = 0.25
    with pytest.raises(
        InputError, match=r"not finite for 2 of 20 inputs \(number 3, 7\).*Leave these inputs out"
    ):
        secateur.prune(Head(standardised).eval(), x[:2], remove=0.5, calibration=x)


def test_solved_weights_are_finite_in_the_type_that_stores_them() -> None:
    with pytest.raises(
        SecateurError, match=r"hidden\.\w+ of shape .* NaN or too large for torch.float16; remove less"
    ):
        secateur.prune(
            Head(torch.relu, 3e3, torch.float16).eval(), torch.rand(2, 1, 4, 4).half(), remove=0.5, samples=64
        )


def test_factor_ends() -> None:
    good = torch.tensor([[[4.0, 2.0], [2.0, 1.0]]], dtype=torch.float64)  # positive semidefinite: rank 1
    torch.testing.assert_close(factor(good) @ factor(good).mT, good, rtol=1e-9, atol=1e-9)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(SolveError, match=r"shape \(1, 2, 2\) has no Cholesky factor"):
            factor(torch.full((1, 2, 2), bad, dtype=torch.float64))


def test_finite_samples_and_the_first_that_is_not() -> None:
    x = torch.rand(6, 1, 4, 4)
    x[2, 0, 0, 0] = 0.0
    graph = capture(Head(torch.log).eval(), x[:2])
    assert finite_samples(graph, [x]).tolist() == [True, True, False, True, True, True]
    found = first_not_finite(graph, [x])
    assert found.startswith("log (aten.log.default")
    assert found.endswith("which gives infinite values (shape (16,) for each sample)")


def test_masks_of_minus_infinity_are_ordinary() -> None:
    def masked(x: Tensor) -> Tensor:
        return x.masked_fill(x > 0.5, -torch.inf).softmax(1)

    result = secateur.prune(
        Head(masked).eval(), torch.rand(2, 1, 4, 4), remove=0.5, samples=64, surrogate="uniform"
    )
    assert result.recipe.used.samples == 64
    with pytest.raises(InputError, match=r"goes wrong at log \(aten"):
        secateur.prune(
            Head(lambda x: (masked(x) - 2).log()).eval(),
            torch.rand(2, 1, 4, 4),
            remove=0.5,
            samples=64,
            surrogate="uniform",
        )


def test_a_certificate_holds_no_nan() -> None:
    model = Head(torch.log).eval()
    small = secateur.prune(model, torch.rand(2, 1, 4, 4), remove=0.5, method="scale").model
    found = secateur.certify(model, small, torch.rand(2, 1, 4, 4), attack_steps=0)
    assert not torch.tensor([*found.lower, *found.upper]).isnan().any()
