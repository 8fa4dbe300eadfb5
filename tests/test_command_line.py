"""Help and usage of the command: quick, complete, the same everywhere. What commands do: `test_cli.py`."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
from typer.testing import CliRunner

import secateur
from secateur.certify import _RULES as CERTIFY_RULES
from secateur.cli import app, names
from secateur.cli.certify import certify_command
from secateur.cli.entry import COMMANDS
from secateur.cli.evaluate import evaluate_command
from secateur.cli.options import COMMON, OUTPUT
from secateur.cli.prune import prune_command
from secateur.cli.quantize import quantize_command
from secateur.cli.search import search_command
from secateur.decisions import HEADS
from secateur.evaluate.attacks.types import Loss, Norm
from secateur.formats.format import RUNTIMES
from secateur.methods import METHODS
from secateur.quantize.schemes import SCHEMES
from secateur.request import NO_SURROGATE, RULES
from secateur.search.suggestions import SAMPLERS
from secateur.search.trial import OBJECTIVES
from secateur.surrogates import SURROGATES

SLOW = ("torch", "numpy", "scipy", "pydantic", "onnx", "safetensors")

# Runs the command as installed, and writes as the last line of stderr which of the slow libraries it has
# imported.
PROBE = f"""
import atexit, sys
atexit.register(lambda: sys.stderr.write("\\n" + " ".join(n for n in {SLOW} if n in sys.modules)))
sys.argv[0] = "secateur"
from secateur_command import main
main()
"""


def typed(*arguments: str, **environment: str) -> tuple[int, str, str, str]:
    """Exit code, stdout, stderr, and the slow libraries that were imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    said, _, imported = done.stderr.rpartition("\n")
    return done.returncode, done.stdout, said, imported


QUICK = {  # arguments → exit code, and what is said
    (): (0, "Commands:"),
    ("-h",): (0, "Exit codes: 0 done"),
    ("--version",): (0, f"secateur {secateur.__version__}"),
    ("prune", "--help"): (0, "If it is missing or wrong, accuracy can collapse."),
    ("certify", "-h"): (0, "PRUNED"),
    ("prun", "net.pt2"): (2, "No such command 'prun'. Did you mean 'prune'?"),
    ("prune", "--outptu", "x.pt2"): (2, "No such option: --outptu"),
    ("prune",): (2, "Missing argument MODEL."),
    ("prune", "net.pt2"): (2, "Missing option --output / -o. File for the smaller model."),
    ("evaluate", "net.pt2", "other.pt2", "--data", "x.npz"): (2, "Unexpected argument 'other.pt2'"),
}


def test_completion_imports_nothing_slow() -> None:
    """Which shell calls is not known everywhere, as where no shell does."""
    code, out, said, imported = typed("--show-completion", "bash")
    assert imported == "" and ("_SECATEUR_COMPLETE" in out if code == 0 else "shell" in said.lower())


@pytest.mark.parametrize("arguments", QUICK)
def test_help_version_and_usage_import_nothing_slow(arguments: tuple[str, ...]) -> None:
    code, said = QUICK[arguments]
    found, out, err, imported = typed(*arguments, COLUMNS="200")
    assert (found, imported) == (code, "")
    shown, nothing = (err, out) if code else (out, err)
    assert said in " ".join(shown.split()) and not nothing.strip()


def completions(line: str) -> list[str]:
    words = line.split(" ")
    asked = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_SECATEUR_COMPLETE": "complete_bash"}
    code, out, _, imported = typed(**asked)
    assert (code, imported) == (0, "")
    return out.split()


def test_completion_knows_commands_options_and_names() -> None:
    assert completions("secateur ") == list(COMMANDS)
    assert {"--mean", "--method"} <= set(completions("secateur prune net.pt2 --m"))
    assert completions("secateur prune net.pt2 --step 1 --ste") == []  # it is there already
    assert completions("secateur evaluate net.pt2 --norm ") == list(names.Norm)


def test_names_that_options_offer_are_those_of_the_library() -> None:
    tables: list[tuple[Iterable[str], Iterable[str]]] = [
        (names.Method, METHODS),
        (names.Surrogate, [*SURROGATES, NO_SURROGATE]),
        (names.Head, HEADS),
        (names.Norm, get_args(Norm)),
        (names.Loss, get_args(Loss)),
        (names.Runtime, RUNTIMES),
        (names.Scheme, SCHEMES),
        (names.Objective, OBJECTIVES),
        (names.Sampler, SAMPLERS),
    ]
    for offered, real in tables:
        assert list(offered) == list(real)
    assert RULES["allocation"].may_be == " or ".join(names.Allocation)
    assert CERTIFY_RULES["method"].may_be == " or ".join(names.Bounds)


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (prune_command, "prune"),
        (evaluate_command, "evaluate"),
        (certify_command, "certify"),
        (quantize_command, "quantize"),
        (search_command, "search"),
    ],
)
def test_defaults_are_those_of_the_library(command: Any, function: str) -> None:
    ours = inspect.signature(command).parameters
    theirs = inspect.signature(getattr(secateur, function)).parameters
    # None: the library's own; of `resume`, whether there is a checkpoint
    told_otherwise = {"input_bounds", "ignore", "top_k", "corruptions", "attacks", "resume"}
    for name in ours.keys() & theirs.keys() - told_otherwise:
        if theirs[name].default is not inspect.Parameter.empty:
            assert ours[name].default == theirs[name].default, name


def click_commands() -> dict[str, Any]:
    found: Any = typer.main.get_command(app)
    return dict(found.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_described_in_a_group(name: str) -> None:
    command = click_commands()[name]
    assert command.help and command.help.partition("\n")[0].endswith(".")
    for param in command.params:
        assert param.help.endswith("."), param.name
        assert param.param_type_name == "argument" or param.rich_help_panel, param.name


def helped(command: Any, width: int) -> str:
    context = command.context_class(
        command, info_name=command.name, terminal_width=width, help_option_names=["-h"]
    )
    return str(context.get_help())


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("width", [78, 98])
def test_help_shows_every_option_in_one_piece(name: str, width: int) -> None:
    command = click_commands()[name]
    shown = helped(command, width)
    assert max(map(len, shown.splitlines())) <= width
    groups = {getattr(param, "rich_help_panel", None) for param in command.params} & {COMMON, OUTPUT}
    assert all(f"\n{group}:\n" in shown for group in groups) and OUTPUT in groups and "\n  -h" in shown
    told = set(" ".join(param.help for param in command.params).split())
    named = {
        option for param in command.params for option in (*param.opts, *param.secondary_opts) if "-" in option
    }
    assert {word for word in told if word.startswith("--")} <= set(shown.split())  # no break at a hyphen
    assert named <= set(shown.replace(",", " ").split())
    for param in command.params:
        assert not param.metavar or param.metavar in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_short_and_long_help_are_the_same(name: str) -> None:
    short, long = (CliRunner().invoke(app, [name, option]) for option in ("-h", "--help"))
    assert short.output == long.output and short.exit_code == long.exit_code == 0


def test_every_command_has_a_file_of_its_own() -> None:
    folder = Path(inspect.getfile(prune_command)).parent
    for name, function in COMMANDS.items():
        assert Path(inspect.getfile(function)) == folder / f"{name}.py"
        assert inspect.getdoc(function)
