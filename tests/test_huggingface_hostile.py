"""Hugging Face folders that are damaged, wrong or hostile: each is refused in words, at little cost, and nothing
in it is run.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import secateur
from secateur.errors import InputError, SecateurWarning

pytest.importorskip("transformers")

from huggingface_models import built, saved
from secateur.formats.huggingface.load import load_folder

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
Change = Callable[[Path], object]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound folders, to be copied and damaged."""
    root = tmp_path_factory.mktemp("folders")
    llama = built("llama")
    saved(root / "llama", model=llama)
    saved(root / "shards", model=llama, max_shard_size="60KB")
    for family in ("gpt2", "qwen2", "vit", "swin", "distilbert"):
        saved(root / family, family)
    return root


def refused(folders: Path, name: str, change: Change, said: str, tmp_path: Path) -> None:
    """That a copy of the folder is refused in these words after the change, and left as it is."""
    folder = tmp_path / "folder"
    shutil.copytree(folders / name, folder)
    change(folder)
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    with pytest.raises(InputError) as caught:
        secateur.load_model(folder)
    assert said in str(caught.value), str(caught.value)
    assert len(str(caught.value)) < 2000
    assert {p: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before


def config(**changed: Any) -> Change:
    def change(folder: Path) -> None:
        found = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**found, **changed}))

    return change


def text(name: str, content: str | bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def index(edit: Callable[[dict[str, str]], object]) -> Change:
    def change(folder: Path) -> None:
        found = json.loads((folder / INDEX).read_text())
        edit(found["weight_map"])
        (folder / INDEX).write_text(json.dumps(found))

    return change


def header(edit: Callable[[dict[str, Any]], object]) -> Change:
    def change(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        length = int.from_bytes(content[:8], "little")
        found = json.loads(content[8 : 8 + length])
        edit(found)
        new = json.dumps(found).encode()
        (folder / WEIGHTS).write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])

    return change


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def change(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        edit(found)
        save_file(found, folder / WEIGHTS)

    return change


NORM = "model.norm.weight"
CASES: dict[str, tuple[str, Change, str]] = {
    # code
    "auto_map": ("llama", config(auto_map={"AutoModel": "own.Model"}), "auto_map asks to run code from the folder"),
    "auto_map inside": ("llama", config(part={"auto_map": {"A": "b.C"}}), "part.auto_map asks to run code"),
    "a module as class": ("llama", config(architectures=["utils"]), "has no class 'utils'"),
    "a function as class": ("llama", config(architectures=["pipeline"]), "has no class 'pipeline'"),
    "an attribute as class": ("llama", config(architectures=["__name__"]), "has no class '__name__'"),
    "unknown class": ("llama", config(architectures=["OwnModel"]), "has no class 'OwnModel'"),
    "unknown family": ("llama", config(model_type="own"), "does not know the family 'own'"),
    "no family": ("llama", config(model_type=None), "has no model_type"),
    "class of another family": ("llama", config(architectures=["ViTModel"]), "ViTModel cannot be built from it"),
    # JSON
    "a key twice": ("llama", text(CONFIG, '{"model_type": "llama", "model_type": "vit"}'), "'model_type' stands twice"),
    "no JSON": ("llama", text(CONFIG, "model_type: llama"), "is not the JSON that transformers writes"),
    "no text": ("llama", text(CONFIG, b"\xff\xfe{}"), "is not the JSON that transformers writes"),
    "no object": ("llama", text(CONFIG, "[]"), "must hold one JSON object"),
    "nested": ("llama", text(CONFIG, "[" * 100_000), "nested too deeply"),
    "large": ("llama", text(CONFIG, " " * (1 << 25)), "has more than"),
    "wrong type": ("llama", config(hidden_size="wide"), "transformers refuses it"),
    "no names": ("llama", config(architectures="LlamaForCausalLM"), "must be a list of names"),
    # quantised
    "quantised": ("llama", config(quantization_config={"quant_method": "gptq"}), "the weights are quantised"),
    "float8": ("llama", header(lambda h: h[NORM].update(dtype="F8_E4M3")), "a quantised model cannot be pruned"),
    # sizes
    "wider": ("llama", config(hidden_size=4800), "asks for a LlamaForCausalLM of"),
    "wider than all": ("llama", config(hidden_size=10**12), "hidden_size is 1,000,000,000,000"),
    "deeper": ("llama", config(num_hidden_layers=10**9), "num_hidden_layers is 1,000,000,000"),
    "deeper in parts": ("swin", config(depths=[10**9, 2]), "depths is 1,000,000,000"),
    "more words": ("gpt2", config(vocab_size=10**11), "vocab_size is 100,000,000,000"),
    "more places": ("gpt2", config(n_positions=10**11), "n_positions is 100,000,000,000"),
    "a list of layers": ("qwen2", config(num_hidden_layers=10**10), "num_hidden_layers is 10,000,000,000"),
    "a table that is computed": (
        "distilbert", config(max_position_embeddings=10_000, sinusoidal_pos_embds=True),
        "max_position_embeddings is 10,000,",
    ),
    "places that are computed": (
        "distilbert", config(max_position_embeddings=10**10, sinusoidal_pos_embds=True),
        "max_position_embeddings is 10,000,000,000",
    ),
    "larger images": ("vit", config(image_size=1 << 14), "asks for a ViTForImageClassification of"),
    "larger windows": ("swin", config(window_size=1 << 14, image_size=1 << 15), "and the files hold"),
    # tensors
    "missing tensors": ("llama", tensors(lambda t: (t.pop(NORM), t.update(x=torch.zeros(99)))), f"lack {NORM}"),
    "another shape": (
        "llama", tensors(lambda t: t.update({NORM: torch.ones(49)})), "LlamaForCausalLM does not take these weights",
    ),
    "shape beyond the bytes": ("llama", header(lambda h: h[NORM].update(shape=[10**6, 10**6])), "takes 4,000,000,000,000"),
    "negative shape": ("llama", header(lambda h: h[NORM].update(shape=[-48])), f"the shape nor the place of {NORM}"),
    "overlap": (
        "llama", header(lambda h: h[NORM].update(data_offsets=[0, 192])), "overlaps another tensor, or leaves a gap",
    ),
    "no offsets": ("llama", header(lambda h: h[NORM].pop("data_offsets")), f"the shape nor the place of {NORM}"),
    "beyond the file": (
        "llama", header(lambda h: h[NORM].update(data_offsets=[10**12, 10**12 + 192])), "damaged or cut short",
    ),
    "tensors twice": (
        "llama", text(WEIGHTS, (40).to_bytes(8, "little") + b'{"a":{},"a":{}}'.ljust(40)), "'a' stands twice",
    ),
    "cut short": ("llama", lambda f: os.truncate(f / WEIGHTS, 5000), "cut short"),
    "cut in the header": ("llama", lambda f: os.truncate(f / WEIGHTS, 100), "its header is longer than the file"),
    "empty": ("llama", text(WEIGHTS, b""), "is no safetensors file"),
    "more at the end": (
        "llama", lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"more"), "holds 4 bytes after",
    ),
    # shards
    "a path": ("shards", index(lambda m: m.update({NORM: "../secret.safetensors"})), "is no name of a .safetensors"),
    "an absolute path": ("shards", index(lambda m: m.update({NORM: "/etc/passwd"})), "is no name of a .safetensors"),
    "no file": ("shards", index(lambda m: m.update({NORM: "b.safetensors"})), "names b.safetensors, which is missing"),
    "a number": ("shards", index(lambda m: m.update({NORM: 3})), "3 is no name"),
    "another shard": (
        "shards", index(lambda m: m.update({NORM: next(f for f in m.values() if f != m[NORM])})),
        f"{NORM} are not in the file that it names",
    ),
    "not in the index": ("shards", index(lambda m: m.pop(NORM)), f"{NORM} are in a file, and not in it"),
    "no map": ("shards", text(INDEX, "{}"), "has no weight_map"),
    "a map with a key twice": ("shards", text(INDEX, '{"weight_map": {"a": "b", "a": "c"}}'), "'a' stands twice"),
    # folders
    "no weights": ("llama", lambda f: (f / WEIGHTS).unlink(), "has a config.json and no weights"),
    "two files": (
        "llama",
        lambda f: (shutil.copy(f / WEIGHTS, f / "a.safetensors"), (f / WEIGHTS).rename(f / "b.safetensors")),
        f"holds several files of weights and no {INDEX}: a.safetensors, b.safetensors",
    ),
    "an adapter": (
        "llama", lambda f: ((f / WEIGHTS).rename(f / "adapter_model.safetensors"), (f / "adapter_config.json").touch()),
        "holds an adapter",
    ),
    "a folder as weights": ("llama", lambda f: ((f / WEIGHTS).unlink(), (f / WEIGHTS).mkdir()), "is no regular file"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_is_refused(case: str, folders: Path, tmp_path: Path) -> None:
    name, change, said = CASES[case]
    refused(folders, name, change, said, tmp_path)


def test_pickles_are_named_and_never_opened(folders: Path, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "executed", ""))

    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))

    refused(folders, "llama", change, "save_pretrained(", tmp_path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_links_that_leave_the_folder_are_not_followed(name: str, folders: Path, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        (folder / name).rename(tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)

    refused(folders, "llama", change, "is no regular file of this folder", tmp_path)


def test_links_of_a_cache_are_followed(folders: Path, tmp_path: Path) -> None:
    """Hugging Face keeps files as blobs, and folders of links to them."""
    blobs, folder = tmp_path / "models--a--b/blobs", tmp_path / "models--a--b/snapshots/0123"
    blobs.mkdir(parents=True)
    folder.mkdir(parents=True)
    for number, path in enumerate(sorted((folders / "llama").iterdir())):
        shutil.copy(path, blobs / str(number))
        (folder / path.name).symlink_to(f"../../blobs/{number}")
    assert load_folder(folder).folder.family == "llama"


def test_nothing_is_fetched_and_no_kernel_is_loaded(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise AssertionError("the network was used")

    folder = tmp_path / "folder"
    shutil.copytree(folders / "llama", folder)
    config(attn_implementation="kernels-community/evil", _attn_implementation="kernels-community/evil",
           transformers_weights="../../secret", _name_or_path="someone/model")(folder)  # fmt: skip
    monkeypatch.setattr(socket, "socket", offline)
    monkeypatch.setattr(socket, "create_connection", offline)
    model: Any = load_folder(folder)
    assert model.network.config._attn_implementation == "sdpa"


def test_tensors_that_are_not_used_are_named(folders: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders / "llama", folder)
    tensors(lambda t: t.update({"value_head.weight": torch.ones(3)}))(folder)
    with pytest.warns(SecateurWarning, match=r"LlamaForCausalLM does not use value_head\.weight"):
        model = load_folder(folder)
    secateur.save_model(tmp_path / "again", model)
    assert "value_head.weight" not in load_file(tmp_path / "again" / WEIGHTS)


def test_without_transformers_the_package_is_named(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"Hugging Face folders need transformers: pip install 'secateur\[hf\]'"
    ):
        secateur.load_model(folders / "llama")
