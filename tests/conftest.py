"""How much is run: every third case of the tests that are marked as a sweep; with `--all` every case."""

from __future__ import annotations

import zlib

import pytest

SHARE = 3  # of the cases of a sweep, one in so many is run by default


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run every case of the tests that are marked as a sweep")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sweeps repeat one property over all architectures or ops; which cases are left out depends on names alone."""
    if config.getoption("--all") or any("::" in argument for argument in config.args):
        return
    out = [item for item in items if item.get_closest_marker("sweep") and zlib.crc32(item.nodeid.encode()) % SHARE]
    config.hook.pytest_deselected(items=out)
    left_out = set(out)
    items[:] = [item for item in items if item not in left_out]
