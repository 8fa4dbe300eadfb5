"""How much is run: a share of the cases of the tests that are marked as a sweep or as slow; with `--all` every
case; with `--quick` one case of each test, and none of the slow ones.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from secateur import validation
from secateur.normalisation import Finding
from secateur.surrogates import effort

SHARES = {"sweep": 30, "slow": 10}  # of the cases of such a test, one in so many is run by default


@pytest.fixture(autouse=True)
def judged_briefly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the tests that nobody trained are asked nothing of their inputs, few drawings judge them,
    and drawing costs no more than on a large network; tests of these three are marked as `judged`.
    """
    if request.node.get_closest_marker("judged"):
        return
    nothing: Callable[..., Finding] = lambda *given, **more: Finding("", {}, False, "not asked in this test")  # noqa: E731
    monkeypatch.setattr(validation, "likely_normalisation", nothing)
    monkeypatch.setattr(validation, "MOST", validation.FEWEST)
    monkeypatch.setattr(effort, "ALWAYS", 0.0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all", action="store_true", help="run every case of the tests that are marked as a sweep"
    )
    parser.addoption("--attack", action="store_true", help="run every case of the suites in tests/attack")
    parser.addoption(
        "--quick", action="store_true", help="run one case of each test that is not marked as slow"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Which cases are left out depends on names alone."""
    every = config.getoption("--all") or config.getoption("--attack")
    if every or any("::" in argument for argument in config.args):
        return
    left_out = _beyond_quick(items) if config.getoption("--quick") else _beyond_share(items)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _beyond_share(items: list[pytest.Item]) -> set[pytest.Item]:
    """Sweeps repeat one property over all architectures or ops; long tests take seconds each."""
    return {item for cases in _by_test(items).values() for item in set(cases) - _share_of(cases)}


def _share_of(cases: list[pytest.Item]) -> set[pytest.Item]:
    """Of the cases of one test that are not long, at least one."""
    short = sorted(itertools.filterfalse(_is_long, cases), key=_number)
    return {case for case in short if _number(case) % _one_in(case) == 0} | set(short[:1])


def _one_in(item: pytest.Item) -> int:
    return max((SHARES[mark.name] for mark in item.iter_markers() if mark.name in SHARES), default=1)


def _is_long(item: pytest.Item) -> bool:
    return item.get_closest_marker("long") is not None


def _number(item: pytest.Item) -> int:
    return zlib.crc32(item.nodeid.encode())


def _by_test(items: list[pytest.Item]) -> dict[str, list[pytest.Item]]:
    found = dict[str, list[pytest.Item]]()
    for item in items:
        found.setdefault(item.nodeid.partition("[")[0], []).append(item)
    return found


def _beyond_quick(items: list[pytest.Item]) -> set[pytest.Item]:
    return {
        item
        for cases in _by_test(items).values()
        for item in cases
        if item is not cases[0] or any(map(item.get_closest_marker, ("slow", "long")))
    }


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What came of the suites in tests/attack, for `make attack`."""
    if not terminalreporter.config.getoption("--attack"):
        return
    reports = [
        report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])
    ]
    rows = [value for report in reports for name, value in report.user_properties if name == "attack"]
    columns = ("suite", "cases", "refused", "survived", "slowest, s")
    terminalreporter.write_line("")
    for row in (columns, ["---"] * len(columns), *sorted(rows)):
        terminalreporter.write_line(f"| {' | '.join(map(str, row))} |")
