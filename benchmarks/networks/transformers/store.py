"""NAME.safetensors (float16) and, for text, the tokenizer of its text in TEXT.json, beside this file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from .table import NETWORKS
from .texts import cut, parts

FOLDER = Path(__file__).parent


def load(name: str) -> nn.Module:
    """A trained network in eval mode, float32. KeyError for a name that is not in the table."""
    model = NETWORKS[name].build(0.0)
    weights = {key: value.float() for key, value in load_file(FOLDER / f"{name}.safetensors").items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = {key for key, value in model.state_dict().items() if key not in weights and _is_tied(model, value)}
    if set(missing) - tied or unexpected:
        raise ValueError(f"{name}.safetensors is of another network: {missing}, {unexpected}")
    return model.eval()


def save(name: str, model: nn.Module, row: dict[str, Any]) -> None:
    """The weights, tied ones once, and the row of index.json."""
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in model.state_dict().items():
        if value.data_ptr() not in seen:
            seen.add(value.data_ptr())
            weights[key] = value.half().contiguous() if value.is_floating_point() else value
    save_file(weights, FOLDER / f"{name}.safetensors")
    index = {**read_index(), name: row}
    (FOLDER / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def read_index() -> dict[str, dict[str, Any]]:
    """What was measured on the trained networks, by name."""
    path = FOLDER / "index.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def tokenizer(text: str) -> Tokenizer:
    return Tokenizer.from_file(str(FOLDER / f"{text}.json"))


def sequences(name: str, packages: Path) -> tuple[Tensor, Tensor]:
    """Training and held-out sequences of ids of a network of text, each (n, LENGTH)."""
    text = NETWORKS[name].data
    train, held_out = parts(text, packages)
    known = tokenizer(text)
    return cut(known, train), cut(known, held_out)


def _is_tied(model: nn.Module, value: Tensor) -> bool:
    return sum(p.data_ptr() == value.data_ptr() for p in model.state_dict().values()) > 1
