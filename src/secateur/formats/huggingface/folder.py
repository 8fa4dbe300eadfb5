"""A Hugging Face folder: its configuration, where its tensors are, and the files that go along with them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from secateur.errors import InputError, few
from secateur.files import refusals_named
from secateur.formats.huggingface.headers import Stored, read_header, refuse
from secateur.strict_json import loads

CONFIG, WEIGHTS, INDEX, GRAPH = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model.pt2",
)
_LARGEST = 16 << 20  # bytes of a file of JSON
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_CODE = ("auto_map", "custom_pipelines", "custom_generate")  # keys that name code
_QUANTISED = ("quantization_config", "compression_config", "sparsity_config")

# Files that belong to a model whatever its size.
_ALONG = (
    "tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "spiece.model",
    "*.spm", "*.tiktoken", "sentencepiece*", "normalizer.json", "chat_template*", "generation_config.json",
    "preprocessor_config.json", "processor_config.json", "image_processor_config.json",
    "video_preprocessor_config.json", "config_sentence_transformers.json", "modules.json",
    "README*", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*",
)  # fmt: skip
_NOT_ALONG = ("*.py", *_PICKLES)


@dataclass(frozen=True, eq=False)
class Folder:
    """What a folder holds. `config` is its `config.json`, `tensors` the names and types of its tensors."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def family(self) -> str:
        """`model_type`, by which transformers knows the class of the configuration."""
        found = self.config.get("model_type")
        if not isinstance(found, str) or not found:
            refuse(self.path / CONFIG, "has no model_type, which names the family of the model")
        return found

    def with_config(self, config: Mapping[str, Any]) -> Folder:
        return replace(self, config=config)

    def files_along(self) -> Iterator[Path]:
        """Tokenizer, preprocessor, licence and the like; no weights and no code."""
        with refusals_named(f"cannot read {self.path}"):
            for path in sorted(self.path.iterdir()):
                wanted = any(fnmatchcase(path.name, pattern) for pattern in _ALONG)
                code = any(fnmatchcase(path.name, pattern) for pattern in _NOT_ALONG)
                if wanted and not code and is_own(path):
                    yield path


def read_folder(path: str | os.PathLike[str]) -> Folder:
    """The folder, without any values. Raises `InputError` for one that cannot be read safely."""
    root = Path(path)
    config = read_json(root / CONFIG)
    _check_config(root / CONFIG, config)
    tensors = {} if (root / GRAPH).is_file() and not _has_weights(root) else _read_tensors(root)
    return Folder(root, config, tensors)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `InputError` for anything else, and for keys that stand twice."""
    if not is_own(path):
        refuse(path, "is no regular file of this folder")
    with refusals_named(f"cannot read {path}"), open(path, "rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        refuse(path, f"has more than {_LARGEST:,} bytes")
    try:
        found = loads(content)
    except ValueError as error:
        refuse(path, f"is not the JSON that transformers writes: {error}")
    if not isinstance(found, dict):
        refuse(path, "must hold one JSON object")
    return found


def is_written(folder: Path) -> bool:
    """Whether a folder is empty, or such a model and nothing else, so that it may be replaced."""
    names = [path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink()]
    model = CONFIG in names and any(name in names for name in (WEIGHTS, INDEX, GRAPH))
    return not any(folder.iterdir()) or (model and len(names) == len(list(folder.iterdir())))


def is_own(path: Path) -> bool:
    """Whether a regular file lies in its folder; links of a Hugging Face cache lead to blobs beside it."""
    real, folder = Path(os.path.realpath(path)), Path(os.path.realpath(path.parent))
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else folder
    return real.is_file() and real.parent in (folder, blobs)


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    for where, part in _parts("", config):
        for key in _CODE:
            if part.get(key):
                refuse(
                    path,
                    f"{where}{key} asks to run code from the folder, which secateur never does. If "
                    "transformers has the class itself, take the key out; else load the model in code that "
                    "you trust, and give the module to secateur.prune",
                )
        for key in _QUANTISED:
            if part.get(key):
                refuse(
                    path,
                    f"{where}{key}: the weights are quantised, and among whole numbers units cannot be "
                    "merged. Give the float checkpoint, and quantise the smaller one",
                )


def _parts(where: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The configuration and those inside of it."""
    yield where, config
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _parts(f"{where}{key}.", value)


def _has_weights(root: Path) -> bool:
    return any(root.glob("*.safetensors")) or (root / INDEX).exists()


def _read_tensors(root: Path) -> dict[str, Stored]:
    if (root / "adapter_config.json").exists() and not (root / WEIGHTS).exists():
        refuse(root, "holds an adapter; merge it into its model (merge_and_unload in peft) and save that")
    if (root / WEIGHTS).exists():
        return _of_shard(root / WEIGHTS)
    if (root / INDEX).exists():
        return _of_shards(root)
    others = sorted(root.glob("*.safetensors"))
    if len(others) == 1:
        return _of_shard(others[0])
    if others:
        refuse(root, f"holds several files of weights and no {INDEX}: {few([p.name for p in others])}")
    pickled = sorted(p.name for pattern in _PICKLES for p in root.glob(pattern))
    if pickled:
        raise InputError(
            f"{root} holds its weights as pickles alone ({few(pickled)}), and unpickling can run any code; "
            "they are refused. Where you trust them, write them as .safetensors once:\n"
            "    from transformers import AutoModel  # or the class that config.json names\n"
            f"    AutoModel.from_pretrained({str(root)!r}).save_pretrained({str(root) + '_safe'!r})"
        )
    refuse(root, f"has a config.json and no weights; {WEIGHTS} is missing")


def _of_shard(path: Path) -> dict[str, Stored]:
    if not is_own(path):
        refuse(path, "is no regular file of this folder")
    return read_header(path)


def _of_shards(root: Path) -> dict[str, Stored]:
    index = root / INDEX
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        refuse(index, "has no weight_map, which says in which file each tensor is")
    found = dict[str, Stored]()
    for name in dict.fromkeys(places.values()):
        if not isinstance(name, str) or name != Path(name).name or not name.endswith(".safetensors"):
            refuse(index, f"{name!r} is no name of a .safetensors file in this folder")
        if not (root / name).exists():
            refuse(index, f"names {name}, which is missing; fetch all files of the model")
        shard = _of_shard(root / name)
        twice = [tensor for tensor in shard if tensor in found]
        if twice:
            refuse(index, f"{few(twice)} are in {name} and in another file")
        found |= shard
    absent = [t for t, file in places.items() if t not in found or found[t].path.name != file]
    extra = [tensor for tensor in found if tensor not in places]
    if absent or extra:
        refuse(
            index,
            f"does not fit its files: {few(absent or extra)} "
            f"{'are not in the file that it names' if absent else 'are in a file, and not in it'}",
        )
    return found
