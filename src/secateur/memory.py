"""How much memory a run may take beside the model, and how much is free."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

from secateur.amounts import amount, may_be
from secateur.budget import budget as largest_array

_LEAST = 2**30
_UNITS = {"": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
MAY_BE = f"{may_be('bytes', _UNITS, '2GiB')}, at least 256MiB"
_SMALLEST = 2**28
_GROWTH = 2**28
_resident = 0  # bytes, the fewest since memory was last given back


def as_bytes(value: object) -> int:
    """A number of bytes, or a text with a unit; raises `ValueError` for anything else, or too little."""
    size = amount(value, _UNITS)
    if not _SMALLEST <= size < 2**62:
        raise ValueError
    return int(size)


def default_memory() -> int:
    """A quarter of the memory that is free now, at least 1 GiB."""
    return max(_LEAST, _free() // 4)


def _free() -> int:
    """Bytes that programs can still take without swapping; of what the process may have where that is
    less.
    """
    try:
        told = Path("/proc/meminfo").read_text()
        available = int(told.partition("MemAvailable:")[2].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        try:
            available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError):
            return 0
    return min(available, 4 * largest_array())


def give_back() -> None:
    """Return memory that was freed to the system, where the C library keeps it otherwise (glibc)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def give_back_growth() -> None:
    """`give_back` when 256 MiB more are resident than after the last time (Linux); some 30 µs.

    For loops over batches: small results that stay keep glibc from using again what lies between them.
    """
    global _resident
    now = _resident_bytes()
    if now > _resident + _GROWTH:
        give_back()
        now = _resident = _resident_bytes()
    _resident = min(_resident, now)


def _resident_bytes() -> int:
    """Of this process; 0 where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def shown(size: int) -> str:
    """For messages: 1.5 GiB."""
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"
