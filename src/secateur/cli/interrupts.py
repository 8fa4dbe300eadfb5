"""Ctrl-C and the like: the end at once while libraries are imported, an exception that cleans up once work
begins.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

_begun = False


class Interrupted(BaseException):
    """A signal, under a name that the command-line library does not catch before us."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


def catch_interrupts() -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # the last is not on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _interrupt)


def import_torch() -> None:
    """Takes seconds; an exception in the midst of it would leave torch half-imported, or be swallowed by its
    C++.
    """
    global _begun
    import torch  # noqa: F401

    _begun = True


def _interrupt(number: int, frame: object) -> NoReturn:
    if not _begun:
        os.write(2, b"secateur: interrupted; nothing was begun\n")
        os._exit(128 + number)
    raise Interrupted(number)
