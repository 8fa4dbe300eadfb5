"""The tutorials run as they are, in a process of their own, and print what the site shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.parametrize("name", ["prune", "certify"])
def test_tutorial_prints_what_its_page_shows(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / f"tutorial_{name}.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())
    page = (ROOT / "docs" / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    shown = page.partition("```text\n")[2].partition("```")[0]
    assert headings(done.stdout) == headings(shown)


def headings(text: str) -> list[str]:
    """Numbers may differ between machines; the numbered parts do not."""
    return [line for line in text.splitlines() if re.match(r"\d\. ", line)]
