"""A folder as a user has it, a command run in it under limits, and what must hold whatever came of it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command import Limits, run

LIMITS = Limits(seconds=60, data=2**31)
EXPECTED = {0, 1, 2, 3}  # done, refused, wrong usage, target missed


@dataclass
class Tally:
    """What came of the cases of a suite."""

    suite: str
    cases: int = 0
    refused: int = 0
    survived: int = 0
    slowest: float = 0.0  # seconds
    faults: list[str] = field(default_factory=list)

    def row(self) -> tuple[str, int, int, int, float]:
        return self.suite, self.cases, self.refused, self.survived, round(self.slowest, 1)


def stormed(
    tally: Tally,
    cases: Iterable[tuple[str, Callable[[Path], tuple[str, ...]]]],
    folder_of: Callable[[str], Path],
    *,
    check: Callable[[Path, int], str] = lambda folder, code: "",
    limits: Limits = LIMITS,
) -> Tally:
    """Run every case in a folder of its own; `prepare(folder)` gives the arguments, `check` says what else is
    wrong.
    """
    for name, prepare in cases:
        folder = folder_of(name)
        arguments = prepare(folder)
        before, begin = contents(folder), time.monotonic()
        done = run(folder, *arguments, limits=limits)
        tally.slowest = max(tally.slowest, time.monotonic() - begin)
        tally.cases += 1
        tally.refused += done.returncode != 0
        tally.survived += done.returncode == 0
        wrong = _wrong(folder, before, arguments, done) or check(folder, done.returncode)
        if wrong:
            tally.faults.append(f"{name}: {wrong}\n  {' '.join(arguments)}\n  {done.stderr[-600:]}")
    return tally


def _wrong(folder: Path, before: dict[str, str], arguments: tuple[str, ...], done: Any) -> str:
    after = contents(folder)
    said = done.stdout + done.stderr
    written = set(after) - set(before)
    if done.returncode not in EXPECTED:
        return f"exit code {done.returncode}"
    if "Traceback" in said or "fault in secateur" in said:
        return "an error that was not foreseen"
    if "marker" in written:
        return "code of a file was run"
    if any(after.get(name) != digest for name, digest in before.items()):
        return "a file was changed or lost"
    if done.returncode and written:
        return f"refused, and yet {written} written"
    if any(name.startswith(".secateur-") for name in after):
        return "a temporary file was left"
    if done.returncode and not said.strip():
        return "refused without a word"
    return ""


def contents(folder: Path) -> dict[str, str]:
    """Digest of every regular file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }
