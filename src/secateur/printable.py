"""Text from files (names of layers, paths) without what a terminal would obey or hide."""

from __future__ import annotations

import unicodedata

_SHOWN = {"\n", "\t"}
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, direction marks, lone surrogates, line separators


def printable(text: str) -> str:
    r"""`text` with control and format characters as escapes; lines after the first are indented, so that none
    of them looks like a message of its own.

    >>> printable("layer\x1b[2J")
    'layer\\x1b[2J'
    """
    shown = "".join(c if c in _SHOWN or unicodedata.category(c) not in _HIDDEN else _escaped(c) for c in text)
    return shown.replace("\n", "\n  ")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
