"""Texts that Debian packages ship, read from one folder:

    apt-get download python3.11-doc fortunes

Nothing is installed. Of the parts of a text (files, sayings), every tenth is held out to measure on.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor

from ..packages import found, member
from .table import LENGTH, VOCABULARY

HELD_OUT = 10


def python(folder: Path) -> list[str]:
    """The sources of Python's documentation, one part a page; 11 MB."""
    pages = _files(folder, "python3.11-doc_*.deb", "html/_sources/", ".rst.txt")
    return [pages[name] for name in sorted(pages)]


def fortunes(folder: Path) -> list[str]:
    """Sayings, jokes and quotations, one part each; 2.5 MB."""
    files = _files(folder, "fortunes_*.deb", "share/games/fortunes/", "")
    texts = [files[name] for name in sorted(files) if "." not in name.rpartition("/")[2]]
    return [f"{part}\n\n" for text in texts for part in text.split("\n%\n")]


TEXTS = {"python": python, "fortunes": fortunes}


def _files(folder: Path, package: str, within: str, suffix: str) -> dict[str, str]:
    raw = subprocess.run(
        ["dpkg-deb", "--fsys-tarfile", found(folder, package)], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        names = [m.name for m in archive if m.isfile() and within in m.name and m.name.endswith(suffix)]
        return {name: member(archive, name).decode("utf-8", "replace") for name in names}


def parts(name: str, folder: Path) -> tuple[list[str], list[str]]:
    """Training and held-out parts of a text."""
    all_parts = TEXTS[name](folder)
    held_out = all_parts[::HELD_OUT]
    return [part for n, part in enumerate(all_parts) if n % HELD_OUT], held_out


def learned(train: list[str]) -> Tokenizer:
    """A byte-level BPE of VOCABULARY ids: `<mask>`, 256 bytes, then merges in the order that they were
    learned.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<mask>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(train, trainer)
    return tokenizer


def cut(tokenizer: Tokenizer, text: list[str]) -> Tensor:
    """All of a text as sequences of LENGTH ids, (n, LENGTH); the rest is dropped."""
    ids = torch.tensor([i for part in tokenizer.encode_batch(text) for i in part.ids])
    return ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)
