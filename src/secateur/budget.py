"""How much memory one array or input may take, known before it is made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from math import prod

import torch

from secateur.errors import InputError

_LEAST = 2**30


@cache
def budget() -> int:
    """Bytes that one array may take: a quarter of the machine's memory, or of the process's limit."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # not on Windows
        return 2**31
    return max(min(total, _allowed()) // 4, _LEAST)


def _allowed() -> int:
    import resource

    limits = (resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS))
    return min((limit for limit in limits if limit != resource.RLIM_INFINITY), default=2**62)


def check_input(what: str, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Raise `InputError` for an input of this shape that is too large; `what` begins the message."""
    size = prod(shape) * dtype.itemsize
    if size > budget():
        raise InputError(
            f"{what}: an input of shape {tuple(shape)} takes {size:,} bytes; at most {budget():,}, a quarter "
            "of the memory here, are"
        )
