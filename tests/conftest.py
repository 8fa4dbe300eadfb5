"""How much is run: every twelfth case of the tests that are marked as a sweep; with `--all` every case; with
`--quick` one case of each test, and none of the slow ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import pytest

from secateur import validation
from secateur.normalisation import Finding

SHARE = 12  # of the cases of a sweep, one in so many is run by default


@pytest.fixture(autouse=True)
def judged_briefly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of the tests that nobody trained are asked nothing of their inputs, and few drawings judge
    them; tests of these two are marked as `judged`.
    """
    if request.node.get_closest_marker("judged"):
        return
    nothing: Callable[..., Finding] = lambda *given, **more: Finding("", {}, False, "not asked in this test")  # noqa: E731
    monkeypatch.setattr(validation, "likely_normalisation", nothing)
    monkeypatch.setattr(validation, "MOST", validation.FEWEST)


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
    if config.getoption("--all") or any("::" in argument for argument in config.args):
        return
    left_out = _beyond_quick(items) if config.getoption("--quick") else _beyond_share(items)
    config.hook.pytest_deselected(items=[item for item in items if item in left_out])
    items[:] = [item for item in items if item not in left_out]


def _beyond_share(items: list[pytest.Item]) -> set[pytest.Item]:
    """Sweeps repeat one property over all architectures or ops; long tests take a quarter of a minute each."""
    return {
        item
        for item in items
        if item.get_closest_marker("long")
        or (item.get_closest_marker("sweep") and zlib.crc32(item.nodeid.encode()) % SHARE)
    }


def _beyond_quick(items: list[pytest.Item]) -> set[pytest.Item]:
    first = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
    return {
        item
        for item in items
        if any(map(item.get_closest_marker, ("slow", "long")))
        or item is not first[item.nodeid.partition("[")[0]]
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
