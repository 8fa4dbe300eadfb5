"""The entry point of the command: an interrupt while it is imported ends it like any other, in one line."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn


def main() -> None:
    signal.signal(signal.SIGINT, _stop)
    try:
        os.getcwd()
    except OSError:  # torch's own libraries would end the process, with a message that says another thing
        sys.exit("secateur: the current folder is gone; change to another one")
    from secateur.cli import main as command

    command()


def _stop(number: int, frame: object) -> NoReturn:
    os.write(2, b"secateur: interrupted; nothing was begun\n")
    os._exit(128 + number)
