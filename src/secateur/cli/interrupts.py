"""Ctrl-C and other signals: the end at once during imports, later an exception that cleans up."""

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
    """Import torch, which takes seconds.

    An exception during the import would leave torch half-imported, or be swallowed by its C++.
    """
    global _begun
    import torch  # noqa: F401

    _begun = True


def _interrupt(number: int, frame: object) -> NoReturn:
    if not _begun:
        os.write(2, b"secateur: interrupted; nothing was begun\n")
        os._exit(128 + number)
    raise Interrupted(number)
