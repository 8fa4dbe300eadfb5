"""The entry point of the command: an interrupt while torch is imported ends it like any other, in one line."""

from __future__ import annotations

import os
import signal
from typing import NoReturn


def main() -> None:
    signal.signal(signal.SIGINT, _stop)
    from secateur.cli import main as command  # seconds

    command()


def _stop(number: int, frame: object) -> NoReturn:
    os.write(2, b"secateur: interrupted; nothing was begun\n")
    os._exit(128 + number)
