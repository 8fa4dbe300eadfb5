"""Hugging Face folders in and out: the families that the guide lists, files, inputs, memory, and the command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import command
import secateur
from helpers import outputs
from secateur.errors import InputError, NothingToPruneError, SecateurWarning
from secateur.graph.capture import capture
from secateur.graph.coupling import couple
from secateur.graph.graph import Graph
from secateur.graph.widths import is_width
from secateur.run import Run
from secateur.surgery import shrink
from secateur.types import Group, Removal
from secateur.uniform import Roles, levelled, roles_of

pytest.importorskip("transformers")

from huggingface_models import (
    FAMILIES,
    FEED_FORWARD,
    HEADS,
    answers,
    built,
    by_transformers,
    inputs_for,
    removing,
    row,
    saved,
)
from secateur.formats.huggingface.headers import read_header
from secateur.formats.huggingface.load import load_folder
from secateur.formats.huggingface.model import HuggingFaceGraph, HuggingFaceModel
from secateur.formats.huggingface.save import write_weights
from secateur.formats.huggingface.shards import Written, write_shard

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "huggingface.md"


def pruned(model: nn.Module, graph: Graph, coupling: Any, counts: dict[str, int]) -> Any:
    """The smaller model without the units that come last."""
    run = Run(graph, coupling)
    for group in coupling.prunable:
        units = torch.arange(group.units - counts.get(group.name, 0), group.units)
        run.apply(group, Removal(group.name, units, torch.full_like(units, -1)))
    return shrink(model, graph, coupling, run.weights, run.alive)


def close(a: list[Tensor], b: list[Tensor], tolerance: float) -> None:
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


# --- families -----------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_read_pruned_and_read_by_transformers(family: str, tmp_path: Path) -> None:
    """The same outputs as the original's class; 30 % of heads and feed-forward units gone; the same again."""
    case, network = FAMILIES[family], built(family)
    model = load_folder(saved(tmp_path / "whole", model=network))
    assert isinstance(model, HuggingFaceModel)
    inputs = inputs_for(model)
    close(outputs(model, inputs), answers(network, model, inputs), 1e-5)

    graph = capture(model)
    coupling = couple(graph)
    assert row(family, model, coupling) in GUIDE.read_text()
    heads_and_units = removing(
        coupling, lambda g: bool(HEADS.fullmatch(g.name) or FEED_FORWARD.fullmatch(g.name))
    )
    roles, _ = roles_of(model, coupling.prunable, [g for g in coupling.groups if g.pinned])
    said = roles.of
    alike = levelled(
        coupling.prunable, {g.name: heads_and_units.get(g.name, 0) for g in coupling.prunable}, roles
    )
    small = pruned(model, graph, coupling, {name: count for name, count in alike.items() if name in said})
    assert isinstance(small, HuggingFaceModel)
    secateur.save_model(tmp_path / "small", small)
    again = by_transformers(tmp_path / "small", case.model)
    assert sum(p.numel() for p in again.parameters()) < 0.95 * sum(p.numel() for p in network.parameters())
    close(answers(again, model, inputs), outputs(small, inputs), 1e-4)
    widths = removing(coupling, is_width, 0.4)
    thinner = pruned(model, graph, coupling, widths)
    assert isinstance(thinner, HuggingFaceModel if widths.keys() <= said.keys() else HuggingFaceGraph)
    if heads_and_units.keys() - said.keys():  # shrink compares the graph with the masked original
        assert isinstance(pruned(model, graph, coupling, heads_and_units), HuggingFaceGraph)


def test_heads_of_grouped_queries_leave_together(tmp_path: Path) -> None:
    """One of four key/value heads goes with its two queries: 8, 4 → 6, 3, each as wide as before."""
    model = load_folder(saved(tmp_path / "llama"))
    graph = capture(model)
    coupling = couple(graph)
    heads = removing(coupling, lambda g: bool(HEADS.fullmatch(g.name)))
    assert set(heads.values()) == {1}
    config = pruned(model, graph, coupling, heads).folder.config
    assert [config[key] for key in ("num_attention_heads", "num_key_value_heads", "head_dim")] == [6, 3, 6]
    assert config["hidden_size"] == 48 and config["intermediate_size"] == 40


@pytest.mark.sweep
@pytest.mark.parametrize("family", ["vit", "t5"])
def test_fewer_heads_of_less_width(family: str, tmp_path: Path) -> None:
    """One head of four, and three of eight dimensions of the others: ViT's class divides by √5 then, T5's by 1."""
    model = load_folder(saved(tmp_path / "whole", family))
    graph = capture(model)
    coupling = couple(graph)
    gone = removing(coupling, is_width, 0.4) | removing(coupling, lambda g: bool(HEADS.fullmatch(g.name)))
    small = pruned(model, graph, coupling, gone)
    secateur.save_model(tmp_path / "small", small)
    config = json.loads((tmp_path / "small/config.json").read_text())
    keys = ("num_heads", "d_kv") if family == "t5" else ("num_attention_heads", "head_dim")
    assert [config[key] for key in keys] == [3, 5]
    again, inputs = by_transformers(tmp_path / "small", FAMILIES[family].model), inputs_for(model)
    close(answers(again, model, inputs), outputs(small, inputs), 1e-5)


def test_half_of_the_width_is_not_half_of_the_heads(tmp_path: Path) -> None:
    """Llama's configuration can say 4 heads in place of 8, and nothing of their width: a graph is made."""
    model = load_folder(saved(tmp_path / "llama", model=built("llama", head_dim=8)))
    graph = capture(model)
    coupling = couple(graph)
    small = pruned(model, graph, coupling, removing(coupling, is_width, 0.5))
    assert isinstance(small, HuggingFaceGraph)


@pytest.mark.long
def test_widths_leave_where_layers_may_be_unlike_and_heads_where_the_configuration_says_them(
    tmp_path: Path,
) -> None:
    how: dict[str, Any] = {"method": "scale", "surrogate": "uniform", "samples": 32, "remove": 0.5}
    vit, llama = (load_folder(saved(tmp_path / name, name)) for name in ("vit", "llama"))
    found = {}
    for name, model, uniform in (("vit", vit, True), ("llama", llama, True), ("free", llama, False)):
        found[name] = secateur.prune(model, uniform_layers=uniform, **how)
    assert found["vit"].model.folder.config["head_dim"] == 4  # type: ignore[union-attr]
    assert found["llama"].model.folder.config["num_attention_heads"] == 4  # type: ignore[union-attr]
    assert {g.group.rpartition("/")[2] for g in found["free"].recipe.groups} >= {"qk", "v"}


@pytest.mark.long
def test_numbers_of_heads_that_a_configuration_refuses_are_not_reached(tmp_path: Path) -> None:
    """Llama's must divide the hidden size."""
    model = load_folder(saved(tmp_path / "llama", model=built("llama", hidden_size=32, head_dim=4)))
    how: dict[str, Any] = {"method": "scale", "surrogate": "uniform", "samples": 32, "uniform_layers": True}
    few = secateur.prune(model, remove=0.3, **how).model  # 8 → 6, which does not divide 32
    many = secateur.prune(model, remove=0.5, **how).model
    assert [m.folder.config["num_attention_heads"] for m in (few, many)] == [8, 4]  # type: ignore[union-attr]


@pytest.mark.long
def test_layers_of_unequal_sizes_are_a_graph_that_is_read_again(tmp_path: Path) -> None:
    model = load_folder(saved(tmp_path / "llama"))
    graph = capture(model)
    coupling = couple(graph)
    small = pruned(model, graph, coupling, {"model.layers.0.mlp.gate_proj": 11})
    assert isinstance(small, HuggingFaceGraph)
    with pytest.warns(SecateurWarning, match="from_pretrained cannot load it.*--uniform-layers"):
        secateur.save_model(tmp_path / "small", small)
    again = secateur.load_model(tmp_path / "small")
    assert isinstance(again, HuggingFaceGraph)
    inputs = inputs_for(model)
    close(outputs(again, inputs), outputs(small, inputs), 1e-5)
    assert {p.name for p in (tmp_path / "small").iterdir()} == {
        "config.json", "generation_config.json", "load.py", "model.pt2",
    }  # fmt: skip
    shown = subprocess.run(
        [sys.executable, tmp_path / "small" / "load.py"], capture_output=True, text=True, check=True
    )
    assert "tensor(" in shown.stdout
    more = secateur.prune(again, method="scale", remove="params=20%", surrogate="uniform", samples=32)
    assert isinstance(more.model, HuggingFaceGraph)


# --- layers that stay alike ---------------------------------------------------------------------------------


class Stages(nn.Module):
    """Two layers of one role, and a third of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(6, n), nn.ReLU(), nn.Linear(n, 6)) for n in (20, 20, 30)
        )
        with torch.no_grad():
            self.layers[0][0].weight[:15] *= 1e-3  # far less to lose than in the other one

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        return x


def kept(result: secateur.Result) -> dict[str, int]:
    return {g.group: len(g.kept) for g in result.recipe.groups if not g.group.endswith("2")}


def test_global_allocation_takes_as_much_from_layers_of_one_role() -> None:
    torch.manual_seed(0)
    how: dict[str, Any] = {"remove": "params=40%", "allocation": "global", "samples": 128}
    free = kept(secateur.prune(Stages().eval(), torch.zeros(2, 6), **how))
    alike = kept(secateur.prune(Stages().eval(), torch.zeros(2, 6), **how, uniform_layers=True))
    assert free["layers.0.0"] != free["layers.1.0"]
    assert alike["layers.0.0"] == alike["layers.1.0"] != alike["layers.2.0"]


def test_roles_are_names_without_numbers_and_sizes_in_proportion() -> None:
    groups = [Group(f"blocks.{i}.fc1", n, ()) for i, n in enumerate((8, 8, 16))]
    roles, whole = roles_of(nn.Identity(), groups, [Group("blocks.3.fc1", 8, (), "an output")])
    assert not whole and roles.of["blocks.0.fc1"] == roles.of["blocks.1.fc1"] != roles.of["blocks.2.fc1"]
    same = Roles(dict.fromkeys(roles.of, "one"))
    asked = {"blocks.0.fc1": 3, "blocks.1.fc1": 2, "blocks.2.fc1": 5}
    assert list(levelled(groups, asked, same).values()) == [2, 2, 4]
    assert list(levelled(groups, asked, same, max).values()) == [3, 3, 6]
    some = Roles(same.of, {"blocks.2.fc1": (16, 14, 8)})
    assert list(levelled(groups, asked, some, max).values()) == [1, 1, 2]


def test_uniform_layers_removes_only_what_the_configuration_can_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BERT's configuration has no number for the width of a head, nor one for that of the pooler."""
    model = load_folder(saved(tmp_path / "bert", "bert"))
    how: dict[str, Any] = {"method": "scale", "surrogate": "uniform", "samples": 32}
    result = secateur.prune(model, remove=0.3, uniform_layers=True, progress=True, **how)
    assert isinstance(result.model, HuggingFaceModel)
    assert result.model.folder.config["intermediate_size"] == 28
    assert "cannot say less of bert.encoder.layer.0.attention.self.query" in capsys.readouterr().err
    assert result.recipe.request.uniform_layers
    with pytest.raises(NothingToPruneError, match="cannot say less of"):
        secateur.prune(model, remove=0.3, uniform_layers=True, ignore="*.intermediate.*", **how)


def test_a_role_stays_whole_with_one_of_its_layers(tmp_path: Path) -> None:
    model = load_folder(saved(tmp_path / "llama"))
    result = secateur.prune(
        model, remove=0.3, uniform_layers=True, ignore="model.layers.0.mlp.*", method="scale",
        surrogate="uniform", samples=32,
    )  # fmt: skip
    assert isinstance(result.model, HuggingFaceModel)
    assert result.model.folder.config["intermediate_size"] == 40
    assert result.model.folder.config["num_key_value_heads"] == 3


# --- files --------------------------------------------------------------------------------------------------


def test_files_beside_the_weights_go_along_and_code_does_not(tmp_path: Path) -> None:
    folder = saved(tmp_path / "vit", "vit")
    along = {
        "tokenizer.json": "{}",
        "README.md": "# ViT",
        "LICENSE": "free",
        "preprocessor_config.json": "{}",
    }
    for name, text in {**along, "modeling_own.py": "raise", "optimizer.pt": "x"}.items():
        (folder / name).write_text(text)
    outside = tmp_path / "secret"
    outside.write_text("not of this folder")
    (folder / "tokenizer_config.json").symlink_to(outside)
    secateur.save_model(tmp_path / "again", load_folder(folder))
    assert {p.name for p in (tmp_path / "again").iterdir()} == {*along, "config.json", "model.safetensors"}
    assert json.loads((tmp_path / "again/config.json").read_text()) == json.loads(
        (folder / "config.json").read_text()
    )


def test_types_and_names_of_the_files_stay(tmp_path: Path) -> None:
    """Half precision is computed in float32, and written as it was."""
    network = built("vit").to(torch.bfloat16)
    folder = saved(tmp_path / "vit", model=network)
    model = load_folder(folder)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    secateur.save_model(tmp_path / "again", model)
    before, after = (read_header(f / "model.safetensors") for f in (folder, tmp_path / "again"))
    assert {n: (s.dtype, s.shape) for n, s in before.items()} == {
        n: (s.dtype, s.shape) for n, s in after.items()
    }
    for name, stored in before.items():
        assert torch.equal(stored.read(), after[name].read())


@pytest.mark.parametrize(
    ("family", "old", "new"),
    [("bert", "LayerNorm.weight", "LayerNorm.gamma"), ("gpt2", "transformer.", "")],
)
def test_names_of_older_folders_are_understood(family: str, old: str, new: str, tmp_path: Path) -> None:
    network = built(family)
    folder = saved(tmp_path / family, model=network)
    named = {name.replace(old, new): x for name, x in load_file(folder / "model.safetensors").items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    model = load_folder(folder)
    assert isinstance(model, HuggingFaceModel)
    inputs = inputs_for(model)
    close(outputs(model, inputs), answers(network, model, inputs), 1e-5)
    secateur.save_model(tmp_path / "again", model)
    assert len(load_file(tmp_path / "again" / "model.safetensors")) == len(named)
    again = by_transformers(tmp_path / "again", FAMILIES[family].model)
    close(answers(again, model, inputs), outputs(model, inputs), 1e-6)


def test_shards_are_read_and_written(tmp_path: Path) -> None:
    network = built("llama")
    folder = saved(tmp_path / "llama", model=network, max_shard_size="20KB")
    assert (folder / "model.safetensors.index.json").is_file()
    model = load_folder(folder)
    assert isinstance(model, HuggingFaceModel)
    inputs = inputs_for(model)
    close(outputs(model, inputs), answers(network, model, inputs), 1e-5)

    secateur.save_model(tmp_path / "again", model)
    (tmp_path / "again" / "model.safetensors").unlink()
    write_weights(tmp_path / "again", model.stored_state(), limit=20_000)
    shards = sorted((tmp_path / "again").glob("model-*.safetensors"))
    assert len(shards) > 2 and max(p.stat().st_size for p in shards) < 23_000
    close(answers(by_transformers(tmp_path / "again", "LlamaForCausalLM"), model, inputs),
          outputs(model, inputs), 1e-6)  # fmt: skip


def test_a_file_of_weights_holds_each_tensor_in_its_type(tmp_path: Path) -> None:
    """As the library reads it: converted, transposed, of no axes and of no numbers."""
    values = {
        "half": (torch.randn(3, 5), torch.bfloat16),
        "wide": (torch.randn(4, 2).T, torch.float64),
        "bytes": (torch.tensor([1, 0, 1]), torch.uint8),
        "one": (torch.tensor(7), torch.int64),
        "none": (torch.zeros(0, 3), torch.float32),
    }
    state = {name: Written(value, dtype) for name, (value, dtype) in values.items()}
    write_shard(tmp_path / "model.safetensors", state)
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == values.keys()
    for name, (value, dtype) in values.items():
        assert found[name].dtype == dtype and torch.equal(found[name], value.to(dtype))
    assert read_header(tmp_path / "model.safetensors")["half"].size == state["half"].size == 30


def test_a_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    model = load_folder(saved(tmp_path / "vit", "vit"))
    target = tmp_path / "small"
    secateur.save_model(target, model)
    first = (target / "model.safetensors").stat().st_ino
    secateur.save_model(target, model)  # such a model gives way to another one
    assert (target / "model.safetensors").stat().st_ino != first
    (target / "diary").mkdir()
    with pytest.raises(InputError, match="small is a folder that holds something else than such a model"):
        secateur.save_model(target, model)
    assert sorted(p.name for p in target.iterdir()) == ["config.json", "diary", "model.safetensors"]
    assert not list(tmp_path.glob(".secateur-*"))


def test_a_failure_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from secateur.formats.huggingface import save

    model, target = load_folder(saved(tmp_path / "vit", "vit")), tmp_path / "small"
    secateur.save_model(target, model)
    before = {p.name: p.read_bytes() for p in target.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(save, "write_weights", full)
    with pytest.raises(InputError, match="No space left on device; free some space"):
        secateur.save_model(target, model)
    assert {p.name: p.read_bytes() for p in target.iterdir()} == before
    assert not list(tmp_path.glob(".secateur-*"))


def test_other_models_are_not_written_to_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the name of a model must end in"):
        secateur.save_model(tmp_path / "folder", nn.Linear(2, 2))


@pytest.mark.long
def test_reading_takes_no_more_than_one_and_a_half_times_the_files(tmp_path: Path) -> None:
    """In a process of its own, which may hold 1.5 times the 110 MB of the folder beside what it had before."""
    network = built("llama", hidden_size=512, intermediate_size=2048, vocab_size=10_000, num_hidden_layers=4)
    folder = saved(tmp_path / "llama", model=network, max_shard_size="40MB")
    size = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
    code = """
        import resource, sys
        from secateur.formats.huggingface.load import load_folder
        load_folder(sys.argv[1])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model = load_folder(sys.argv[2])
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    tiny = saved(tmp_path / "tiny")
    shown = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), tiny, folder],
        capture_output=True,
        text=True,
        check=True,
    )
    assert size > 100e6 and int(shown.stdout) * 1024 < 1.5 * size


# --- inputs -------------------------------------------------------------------------------------------------


def test_inputs_are_those_of_the_configuration(tmp_path: Path) -> None:
    vit, llama = (load_folder(saved(tmp_path / name, name)) for name in ("vit", "llama"))
    assert [tuple(x.shape) for x in vit.example_inputs] == [(2, 3, 16, 16)]
    (ids,) = llama.example_inputs
    assert ids.dtype == torch.int64 and ids.shape == (2, 22) and ids.unique().numel() > 20
    with pytest.raises(
        InputError, match="input_ids holds ids from 0 to 61; those of the vocabulary lie from 0 to 60"
    ):
        secateur.inspect(llama, torch.tensor([[0, 61]]))
    with pytest.raises(InputError, match=r"input_ids takes int64 ids of tokens, not torch\.float32"):
        secateur.inspect(llama, torch.zeros(2, 5))
    with pytest.raises(InputError, match=r"the model takes 1 inputs \(input_ids\), not 2"):
        secateur.inspect(llama, (ids, ids))


def test_images_are_normalised_as_the_preprocessor_says(tmp_path: Path) -> None:
    from secateur.inputs import read_inputs, settings_path

    folder = saved(tmp_path / "vit-2.1", "vit")
    (folder / "preprocessor_config.json").write_text(
        '{"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.5, 0.5]}'
    )
    assert read_inputs(folder).mean == (0.5, 0.4, 0.3)
    assert settings_path(folder) == tmp_path / "vit-2.1.yaml"
    settings_path(folder).write_text("normalize: minus1to1\n")
    assert read_inputs(folder).mean == (0.5,)


# --- the command --------------------------------------------------------------------------------------------


def test_command_prunes_and_replays_a_folder_of_tokens(tmp_path: Path) -> None:
    saved(tmp_path / "gpt2", "gpt2")
    np.save(tmp_path / "ids.npy", np.random.default_rng(0).integers(61, size=(40, 22)))
    how = "--remove 30% --uniform-layers --calibration ids.npy --samples 64 --no-latency --json"
    made = command.run(tmp_path, *f"prune gpt2 -o small-0.1 {how}".split())
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["output"] == "small-0.1" and found["class"] == "HuggingFaceModel"
    assert json.loads((tmp_path / "small-0.1/config.json").read_text())["n_inner"] == 90
    by_transformers(tmp_path / "small-0.1", "GPT2LMHeadModel")
    again = command.run(tmp_path, *"replay gpt2 small-0.1.recipe.json -o again".split())
    assert again.returncode == 0, again.stderr
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "small-0.1" / name).read_bytes()


@pytest.mark.long
def test_command_inspects_and_evaluates_a_folder_of_images(tmp_path: Path) -> None:
    folder = saved(tmp_path / "vit", "vit")
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.5]}')
    np.savez(tmp_path / "test.npz", images=np.random.default_rng(0).random((8, 3, 16, 16), np.float32))
    said = command.run(tmp_path, *"evaluate vit --original vit --data test.npz --no-latency --json".split())
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["agreement"] == 1
    shown = command.run(tmp_path, "inspect", "vit", "--json")
    names = {group["name"]: group["pinned"] for group in json.loads(shown.stdout)["groups"]}
    assert names["vit.layers.0.mlp.fc1"] is None


def test_command_stops_before_any_work_where_the_output_is_no_such_folder(tmp_path: Path) -> None:
    saved(tmp_path / "vit", "vit")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_text("dear")
    for output, text in (
        ("vit", "is read and stays as it is"),
        ("other", "is a folder that holds something else than such a model"),
    ):
        said = command.run(tmp_path, "prune", "vit", "-o", output, "--overwrite")
        assert said.returncode == 1 and re.search(text, " ".join(said.stderr.split())), said.stderr


def test_a_model_from_a_folder_can_be_written_as_a_graph(tmp_path: Path) -> None:
    model = load_folder(saved(tmp_path / "vit", "vit"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SecateurWarning)
        secateur.save_model(tmp_path / "vit.pt2", model, model.example_inputs)
    again: Any = secateur.load_model(tmp_path / "vit.pt2")
    inputs = inputs_for(model)
    close(outputs(again.module(), inputs), outputs(model, inputs), 1e-5)


def test_uniform_layers_of_one_head_keep_its_widths(tmp_path: Path) -> None:
    """A head width is that of queries, keys and values; of one head, those of values are no units."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=1, intermediate_size=24, image_size=16,
        patch_size=8, num_labels=3,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).eval().save_pretrained(tmp_path)
    how: dict[str, Any] = {"method": "scale", "samples": 32, "surrogate": "uniform", "uniform_layers": True}
    result = secateur.prune(secateur.load_model(tmp_path), remove=0.3, **how)
    assert isinstance(result.model, HuggingFaceModel)
