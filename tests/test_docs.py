"""The README is short and true, and what the documentation names exists."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main

import secateur
from secateur.cli import app
from trained import blobs

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced code blocks of a page in one language; the empty one for shell lines."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


def commands(path: Path) -> Iterator[list[str]]:
    """The words of all `secateur …` lines in shell blocks and in text."""
    text = path.read_text(encoding="utf-8")
    lines = [line for block in blocks(path, "") for line in block.splitlines()]
    for line in [*lines, *re.findall(r"`(secateur [^`]+)`", text)]:
        if line.startswith("secateur "):
            yield shlex.split(line, comments=True)[1:]


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) <= 900


@pytest.mark.slow
def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model, images, labels = blobs()
    names: dict[str, Any] = {"model": model, "images": images, "labels": labels}
    (code,) = blocks(README, "python")
    exec(compile(code, str(README), "exec"), names)
    shown = capsys.readouterr().out
    assert "verdict: " in shown and re.search(r"accuracy \d+\.\d\d% before, \d+\.\d\d% after", shown)
    assert (tmp_path / "small.recipe.json").is_file()


def test_the_table_of_the_readme_is_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    results = json.loads((ROOT / "docs" / "results" / "fidelity.json").read_text(encoding="utf-8"))["results"]
    assert import_module("picture").table(results) in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_the_documentation_exist_with_their_options(path: Path) -> None:
    found: Any = typer.main.get_command(app)
    for name, *words in commands(path):
        if name in ("COMMAND", "--install-completion"):
            continue
        assert name in found.commands, name
        if words:
            context = found.commands[name].make_context(
                name, words
            )  # raises for options and values that do not exist
            context.close()


def test_options_in_the_text_exist() -> None:
    found: Any = typer.main.get_command(app)
    known = {
        option
        for command in found.commands.values()
        for param in command.params
        for option in (*param.opts, *param.secondary_opts)
    }
    known |= {
        "--install-completion",
        "--all",
        "--quick",
        "--attack",
        "--seed",
        "--epochs",
        "--strict",
        "--help",
    }
    for path in PAGES:
        named = set(re.findall(r"`(--[a-z-]+)[ `]", path.read_text(encoding="utf-8")))
        assert named <= known, (path, named - known)


def test_the_reference_shows_every_public_name() -> None:
    """At the place where it is defined, since the site reads the sources without importing them."""
    shown = [
        line.removeprefix("::: ")
        for path in (ROOT / "docs" / "reference").glob("*.md")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith("::: ")
    ]
    assert len(shown) == len(set(shown))
    for name in set(secateur.__all__) - {"__version__"}:
        value = getattr(secateur, name)
        assert f"{value.__module__}.{value.__qualname__}" in shown, name
    for line in shown:
        module, _, name = line.rpartition(".")
        assert hasattr(import_module(module), name), line


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/.-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(ROOT / "docs")) for path in PAGES if path != README}


def test_files_that_pages_include_exist() -> None:
    for path in PAGES:
        for name in re.findall(r"<!-- include: (\S+)", path.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), (path, name)


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link
