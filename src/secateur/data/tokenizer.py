"""The files of a tokenizer: how its ids rank, which id hides a token, and text as sequences of ids.

`tokenizer.json` (of the package tokenizers), `vocab.json` with `merges.txt` (byte-level BPE) and `vocab.txt`
(WordPiece) are read for the ranks by themselves; for text, the package is needed (the extra `text`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from secateur.errors import InputError
from secateur.types import Tokenizer

NAMES = ("tokenizer.json", "vocab.json", "vocab.txt")  # in the order in which they are looked for
_LARGEST = 2**28  # bytes of a file
_CHUNK = 2**20  # characters of a text that are encoded at a time

Ids = Mapping[str, int]


def tokenizer_path(model: str | os.PathLike[str]) -> Path | None:
    """The tokenizer's file in the folder of a model (or in the folder that is the model); None for none."""
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Ranks and special ids from a tokenizer's file, or from the first in a folder.

    Merged tokens rank in the order in which the tokenizer learned them, which is that of their frequency in
    its text; a token that they are merged from comes before the first of them. Raises `InputError` for files
    that are no tokenizer's.
    """
    file = _file(path)
    if file.name == "vocab.txt":
        return _word_pieces(_lines(file))
    found = _json(file)
    try:
        if "model" in found:
            return _of_tokenizers(found)
        merges = file.with_name("merges.txt")
        pairs = (
            [line for line in _lines(merges) if not line.startswith("#version")] if merges.is_file() else []
        )
        return Tokenizer(_ranked(found, pairs, ()))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} is no tokenizer's file that is known ({type(error).__name__}: {error}); give a "
            "tokenizer.json (tokenizer=, --tokenizer), or ids in place of text"
        ) from error


def is_text(value: object) -> bool:
    """Whether it is the path of a file of text."""
    return isinstance(value, str | os.PathLike) and Path(value).suffix.lower() == ".txt"


def load_text(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None,
    length: int,
    limit: int | None = None,
) -> Tensor:
    """A text file as sequences of `length` ids, framed as the tokenizer frames them; (n, length), int64.

    What is left at the end, shorter than a sequence, is dropped. At most `limit` sequences, the first. Raises
    `InputError` where the file cannot be read as UTF-8 or is too short, without a tokenizer's file, and where
    the package tokenizers is missing.
    """
    if tokenizer is None:
        raise InputError(
            f"{path}: for text, the tokenizer's file is needed; put tokenizer.json beside the model or give "
            "it (tokenizer=, --tokenizer), or give ids as an .npy file"
        )
    known = _loaded(_file(tokenizer))
    framing = known.num_special_tokens_to_add(False)
    if framing >= length:
        raise InputError(f"{path}: sequences of {length} tokens have no room for text")
    known.no_padding()
    known.enable_truncation(length)
    rows: list[list[int]] = []
    for chunk in _chunks(path):
        first = known.encode(chunk)
        rows += [part.ids for part in (first, *first.overflowing) if len(part.ids) == length]
        if limit is not None and len(rows) >= limit:
            break
    if not rows:
        raise InputError(f"{path}: the text is shorter than one sequence of {length} tokens")
    return torch.tensor(rows[:limit])


def _chunks(path: str | os.PathLike[str]) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8") as file:
            while chunk := file.read(_CHUNK):
                yield chunk + file.readline()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}") from error


def _file(path: str | os.PathLike[str]) -> Path:
    place = Path(path)
    if not place.is_dir():
        return place
    found = tokenizer_path(place)
    if found is None:
        raise InputError(f"{path} holds no tokenizer: there is none of {', '.join(NAMES)}")
    return found


def _loaded(file: Path) -> Any:
    """The tokenizer of the package tokenizers."""
    try:
        from tokenizers import Tokenizer as Known
        from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
        from tokenizers.implementations.byte_level_bpe import ByteLevelBPETokenizer
    except ImportError as error:
        raise InputError(
            "text needs the package tokenizers: pip install tokenizers (the extra secateur[text]), or give "
            "ids as an .npy file"
        ) from error
    try:
        if file.name == "vocab.txt":
            return BertWordPieceTokenizer(str(file))._tokenizer
        if file.name == "vocab.json":
            return ByteLevelBPETokenizer(str(file), str(file.with_name("merges.txt")))._tokenizer
        return Known.from_file(str(file))
    except Exception as error:  # the package raises plain ones
        raise InputError(f"cannot read {file} as a tokenizer: {error}") from error


def _of_tokenizers(found: Mapping[str, Any]) -> Tokenizer:
    """From `tokenizer.json`."""
    model, added = found["model"], found.get("added_tokens") or []
    special = {str(token["content"]): int(token["id"]) for token in added if token.get("special")}
    mask = next((i for text, i in special.items() if text.strip("<>[]|").lower() == "mask"), None)
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pieces and their log-probabilities
        score = {i: float(piece[1]) for i, piece in enumerate(vocabulary) if i not in special.values()}
        order = tuple(sorted(score, key=lambda i: -score[i]))
    elif model.get("merges"):
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        order = _ranked(vocabulary, pairs, special.values())
    else:
        order = _pieces(vocabulary, special.values())
    return Tokenizer(order, mask, *_frame(found.get("post_processor"), special))


def _frame(processor: Mapping[str, Any] | None, special: Ids) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that every single sequence begins and ends with."""
    if not processor:
        return (), ()
    if processor["type"] == "Sequence":
        frames = [_frame(part, special) for part in processor["processors"]]
        return next((frame for frame in frames if any(frame)), ((), ()))
    if processor["type"] in ("BertProcessing", "RobertaProcessing"):
        return (int(processor["cls"][1]),), (int(processor["sep"][1]),)
    if processor["type"] != "TemplateProcessing":
        return (), ()
    names = [part["SpecialToken"]["id"] if "SpecialToken" in part else None for part in processor["single"]]
    ids = {name: tuple(map(int, known["ids"])) for name, known in processor["special_tokens"].items()}
    at = names.index(None)
    start, end = (tuple(i for name in part for i in ids[name]) for part in (names[:at], names[at + 1 :]))
    return start, end


def _ranked(vocabulary: Ids, merges: Sequence[str], special: Iterable[int]) -> tuple[int, ...]:
    """Ids in the order of the merges, each part of a merge before it; then the others, by their number."""
    order: dict[int, None] = {}
    for line in merges:
        first, _, second = line.partition(" ")
        for token in (first, second, first + second):
            if token in vocabulary:
                order.setdefault(int(vocabulary[token]))
    for i in sorted(map(int, vocabulary.values())):
        order.setdefault(i)
    left_out = set(special)
    return tuple(i for i in order if i not in left_out)


def _pieces(vocabulary: Ids, special: Iterable[int]) -> tuple[int, ...]:
    """Ids by their number; characters beyond ASCII and ids that are not used come last."""
    left_out = set(special)
    ids = {int(i): text for text, i in vocabulary.items() if int(i) not in left_out}

    def late(text: str) -> bool:
        plain = text.removeprefix("##")
        return text.startswith("[unused") or (len(plain) == 1 and not plain.isascii())

    return tuple(sorted(ids, key=lambda i: (late(ids[i]), i)))


def _word_pieces(lines: Sequence[str]) -> Tokenizer:
    """From `vocab.txt`, one token a line."""
    vocabulary = {line: i for i, line in enumerate(lines)}
    special = {name: vocabulary[name] for name in _SPECIAL if name in vocabulary}
    frame = [(special[name],) if name in special else () for name in ("[CLS]", "[SEP]")]
    return Tokenizer(_pieces(vocabulary, special.values()), special.get("[MASK]"), frame[0], frame[1])


_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(_content(file))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is no JSON file: {error}") from error
    if not isinstance(found, dict):
        raise InputError(f"{file} is no tokenizer's file: it holds a {type(found).__name__}")
    return found


def _lines(file: Path) -> list[str]:
    return _content(file).splitlines()


def _content(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"{file} is larger than {_LARGEST} bytes, and no tokenizer's file")
        return content.decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no text in UTF-8: {error}") from error
