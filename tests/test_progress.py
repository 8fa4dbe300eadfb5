"""Progress away from a terminal: a plain line every ten seconds on stderr, and nothing for shorter work."""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
from contextlib import redirect_stderr

import pytest

import secateur.progress
from secateur.progress import SECONDS, Report, phase, track


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self, end: float) -> None:
        self.now, self.end = 100.0, 100.0 + end

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += seconds
        return self.now > self.end


def lines(report: Report, clock: Clock) -> list[str]:
    stream = io.StringIO()
    report.write(stream, clock)  # type: ignore[arg-type]
    return stream.getvalue().splitlines()


def test_a_line_every_ten_seconds() -> None:
    assert SECONDS == 10.0
    clock = Clock(end=35)
    report = Report("pruning", 40, clock)
    report.done = 12
    assert lines(report, clock) == [f"secateur: pruning 12/40 ({s} s)" for s in (10, 20, 30)]


def test_a_phase_has_no_count() -> None:
    clock = Clock(end=10)
    assert lines(Report("capturing the model", clock=clock), clock) == [
        "secateur: capturing the model (10 s)"
    ]


def test_nothing_for_short_work() -> None:
    clock = Clock(end=9.9)
    assert lines(Report("pruning", 40, clock), clock) == []


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secateur.progress, "SECONDS", 0.02)


def test_steps_are_counted_while_they_last(fast: None, capfd: pytest.CaptureFixture[str]) -> None:
    for i in track(range(3), "pruning", True):
        if i == 2:
            time.sleep(0.2)
    out, err = capfd.readouterr()
    assert out == "" and "secateur: pruning 2/3 (0 s)\n" in err


def test_lines_come_through_where_stderr_is_kept_back(fast: None, capfd: pytest.CaptureFixture[str]) -> None:
    """As it is while a model is exported."""
    with phase("capturing", True), redirect_stderr(io.StringIO()) as kept:
        time.sleep(0.2)
    assert "secateur: capturing (0 s)\n" in capfd.readouterr().err
    assert kept.getvalue() == ""


def test_nothing_where_it_is_not_asked(fast: None, capfd: pytest.CaptureFixture[str]) -> None:
    with phase("capturing", False):
        assert list(track([1, 2], "pruning", False)) == [1, 2]
        time.sleep(0.1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("leave", ["end", "break", "error"])
def test_no_thread_stays_behind(leave: str, fast: None) -> None:
    before = threading.active_count()
    try:
        for _ in track(range(3), "pruning", True):
            if leave == "break":
                break
            if leave == "error":
                raise KeyError
    except KeyError:
        pass
    assert threading.active_count() == before


def test_a_bar_at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with phase("capturing", True):
        pass
    assert list(track(range(3), "pruning", True)) == [0, 1, 2]
    assert "pruning" in sys.stderr.getvalue() and "secateur:" not in sys.stderr.getvalue()  # type: ignore[attr-defined]


def test_the_logger_hears_of_it_asked_for_or_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "secateur"), phase("capturing", False):
        assert list(track("ab", "pruning", False)) == ["a", "b"]
    heard = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert heard == [
        ("DEBUG", "capturing …"),
        ("DEBUG", "pruning …"),
        ("DEBUG", "pruning: 1 of 2"),
        ("DEBUG", "pruning: 2 of 2"),
        ("INFO", "pruning: 0.0 s"),
        ("INFO", "capturing: 0.0 s"),
    ]


def test_the_logger_says_nothing_unless_it_is_listened_to() -> None:
    assert [type(handler) for handler in logging.getLogger("secateur").handlers] == [logging.NullHandler]
