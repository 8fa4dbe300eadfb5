"""The nearest other unit: the same as by brute force, whatever float32 can tell apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from secateur.methods import pairs
from secateur.methods.pairs import least_partners


def brute_force(features: Tensor, fan: Tensor) -> tuple[Tensor, Tensor]:
    distance = (features[:, None] - features[None]).square().sum(2).fill_diagonal_(torch.inf)
    value, partner = distance.min(1)
    return fan * value, partner


@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e25], ids=["usual", "tiny", "too large for float32"])
@pytest.mark.parametrize("shape", [(2, 3), (9, 4), (10, 1), (60, 33)])
def test_the_nearest_is_that_of_brute_force(shape: tuple[int, int], scale: float) -> None:
    torch.manual_seed(0)
    features, fan = scale * torch.randn(shape).double(), torch.rand(shape[0]).double()
    value, partner = least_partners(features, fan, torch.arange(shape[0]))
    expected, nearest = brute_force(features, fan)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0.0)
    assert torch.equal(partner, nearest)


def test_of_equal_ones_the_first_is_taken_however_many_there_are() -> None:
    for copies in (3, 30):
        features = torch.cat([torch.full((copies, 5), 0.3), torch.ones(1, 5)]).double()
        value, partner = least_partners(features, torch.ones(copies + 1).double(), torch.arange(copies + 1))
        assert partner.tolist() == [1] + [0] * copies
        assert not value[:-1].any()


def test_differences_below_the_rounding_of_float32_are_seen() -> None:
    """Twenty units about as far from the first; their distances differ by 1e-12."""
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(20, generator=generator)
    features = torch.zeros(21, 20, dtype=torch.float64)
    features[1:] = torch.eye(20).double() * (1 + 1e-12 * order.double())[:, None]
    _, partner = least_partners(features, torch.ones(21).double(), torch.arange(21))
    assert partner[0] == 1 + int(order.argmin())


def test_tiles_give_what_one_product_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(2)
    features, fan = torch.randn(50, 7).double(), torch.rand(50).double()
    units = torch.arange(0, 50, 2)
    whole = least_partners(features, fan, units)
    monkeypatch.setattr(pairs, "TILE", 6)
    for one, other in zip(least_partners(features, fan, units), whole, strict=True):
        torch.testing.assert_close(one, other)


def test_a_unit_that_is_alone_has_no_partner() -> None:
    value, partner = least_partners(torch.ones(3, 2).double(), torch.ones(3).double(), torch.tensor([1]))
    assert value.tolist() == [float("inf")]
    assert partner.tolist() == [1]
