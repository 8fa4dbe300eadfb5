"""`import secateur` is quick, and gives the same names whatever was imported before."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import secateur

SLOW = ("torch", "numpy", "scipy", "pydantic", "rich", "onnx")
FUNCTIONS = ("certify", "evaluate", "prune", "replay", "search")  # each has the name of a module

CHECK = f"""
import sys, secateur
from secateur import {", ".join(FUNCTIONS)}
for name in {FUNCTIONS}:
    found = getattr(secateur, name)
    assert type(found).__name__ == "function", (name, found)
    assert found is globals()[name] is getattr(sys.modules[secateur._HOMES[name]], name)
"""


def fresh(script: str) -> str:
    """What a new interpreter writes on stdout."""
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_package_alone_imports_nothing_slow() -> None:
    assert (
        fresh(f"import sys, secateur; dir(secateur); print([n for n in {SLOW} if n in sys.modules])") == "[]"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "first",
    [
        "import secateur.certify.search, secateur.evaluate.latency, secateur.prune, secateur.replay",
        "from secateur.prune import prune as own; from secateur.certify.vnnlib import write_claim",
        "import secateur; secateur.certify; secateur.Recipe; import secateur.certify.embed, "
        "secateur.evaluate",
    ],
)
def test_functions_are_not_replaced_by_modules_of_their_name(first: str) -> None:
    fresh(f"{first}\n{CHECK}")


def test_public_names_are_the_objects_that_their_modules_define() -> None:
    """The table, the imports for type checkers and `__all__` are the same names."""
    tree = ast.parse(Path(str(secateur.__file__)).read_text(encoding="utf-8"))
    typed = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("secateur.")
        for alias in node.names
    }
    assert typed == secateur._HOMES
    assert set(secateur.__all__) == {*typed, "__version__"} and set(secateur.__all__) <= set(dir(secateur))
    for name, home in typed.items():
        assert getattr(secateur, name) is getattr(sys.modules[str(home)], name)


def test_modules_of_the_package_and_unknown_names() -> None:
    assert isinstance(secateur.formats, ModuleType) and secateur.formats.__doc__
    with pytest.raises(AttributeError, match="module 'secateur' has no attribute 'prun'"):
        secateur.prun  # noqa: B018
    assert not hasattr(secateur, "__wrapped__")


def test_a_public_name_may_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(secateur, "prune", len)
        assert secateur.prune is len
    assert secateur.prune is sys.modules["secateur.prune"].prune  # type: ignore[attr-defined]
