"""A layer by its name, where its equations cannot be solved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from secateur.errors import InputError
from secateur.reconstruct.elimination import SolveError
from secateur.reconstruct.layers import Consumer


def described(consumer: Consumer) -> str:
    """A layer that reads units, for a message."""
    return f"{consumer.weight} ({consumer.node.target}, {consumer.node.name})"


@contextmanager
def naming(consumer: Consumer) -> Iterator[None]:
    """A system that cannot be solved is named by the layer it belongs to."""
    try:
        yield
    except SolveError as error:
        raise InputError(
            f"{described(consumer)}: it cannot be refitted, {error}. Give a larger ridge "
            f"(options={{'ridge': 0.1}}), or "
            "leave the layer whole (ignore=)"
        ) from error
