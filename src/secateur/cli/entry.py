"""The entry point: the table of commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

import secateur
from secateur.cli.certify import certify_command
from secateur.cli.command import Command, Group
from secateur.cli.evaluate import evaluate_command
from secateur.cli.exit_codes import FAILED, FAULT, TARGET_MISSED
from secateur.cli.init import init_command
from secateur.cli.inspect import inspect_command
from secateur.cli.interrupts import Interrupted, catch_interrupts
from secateur.cli.ops import ops_command
from secateur.cli.printing import print_line, say
from secateur.cli.prune import prune_command
from secateur.cli.quantize import quantize_command
from secateur.cli.replay import replay_command
from secateur.cli.report import report_command
from secateur.cli.search import search_command
from secateur.cli.sweep import sweep_command
from secateur.errors import SecateurError, TargetMissedError
from secateur.printable import printable

COMMANDS: dict[str, Callable[..., None]] = {  # in the order of the help
    "inspect": inspect_command,
    "init": init_command,
    "prune": prune_command,
    "search": search_command,
    "sweep": sweep_command,
    "quantize": quantize_command,
    "evaluate": evaluate_command,
    "certify": certify_command,
    "report": report_command,
    "replay": replay_command,
    "ops": ops_command,
}

_LONGEST = 400  # characters of an unexpected error

_HELP = """Make pre-trained neural networks smaller, without training data and without retraining.

`secateur COMMAND -h` describes a command. A first try: secateur prune net.onnx --remove 25% -o small.onnx"""
_EPILOG = """Results go to stdout, progress and messages to stderr. Exit codes: 0 done; 1 failed, and the
message says what to do; 2 wrong usage; 3 the target was missed or a budget stopped the pruning; 70 a fault in
secateur."""

app = typer.Typer(
    cls=Group,
    help=_HELP,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name, _function in COMMANDS.items():
    app.command(_name, cls=Command)(_function)


@app.callback(invoke_without_command=True)
def _without_command(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print_line(f"secateur {secateur.__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        print_line(context.get_help())


def main() -> None:
    """Run the command.

    Expected failures are one message on stderr and an exit code; a traceback only with --debug.
    """
    catch_interrupts()
    warnings.showwarning = _warn
    _open_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except TargetMissedError as error:
        _fail(error, TARGET_MISSED)
    except SecateurError as error:
        _fail(error, FAILED)
    except Interrupted as error:
        _fail(error, 128 + error.signal, "interrupted; no file was left half-written")
    except OSError as error:
        _fail(error, FAILED, f"the system refuses: {error.strerror or error}")
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):  # the latter is torch's
            _fail(
                error,
                FAILED,
                "out of memory; nothing was written. Take fewer --samples, or a machine with more",
            )
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:_LONGEST]}"
        _fail(error, FAULT, f"{told}. This is a fault in secateur; --debug shows where. Please report it")


def _open_streams() -> None:
    """Streams that the shell has closed lead nowhere; what a terminal cannot encode is escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open until the end)
        elif isinstance(stream := getattr(sys, name), TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _warn(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """Warnings as our other messages on stderr."""
    say(f"warning: {message}")


def _fail(error: BaseException, code: int, message: str | None = None) -> NoReturn:
    if "--debug" in sys.argv:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    say(message or str(error))
    sys.exit(code)
