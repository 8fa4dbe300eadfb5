"""Quantised and half-precision files: smaller, run by onnxruntime, measured as by hand, and never silent."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

import secateur
from command import run
from secateur.errors import InputError, RecipeError, TargetMissedError, UnsupportedOpError
from secateur.formats.onnx.files import load_dequantised
from secateur.quantize import quantize_again
from secateur.quantize.integers import ranges_of
from secateur.quantize.kept_float import by_loss, choose
from secateur.quantize.prepare import optimised, products
from secateur.quantize.schemes import SCHEMES
from secateur.report.quantization import Quantization, Stage
from trained import blobs

# A network of a few microseconds or kilobytes may well be slower or larger in 8 bits, and then a warning says so.
pytestmark = pytest.mark.filterwarnings("ignore:.*did not make the :secateur.errors.SecateurWarning")

# Kind of the stored weights → number of bits.
BITS = {"int8": 8, "fp16": 16, "fp16-weights": 16, "bf16-weights": 16, "int8-weights": 8, "int4-weights": 4}


@cache
def dense() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 5)
    ).eval()


@cache
def convolutional() -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4, 4),
    )  # fmt: skip
    with torch.no_grad():
        net[1].running_mean.uniform_(-0.1, 0.1)
        net[1].running_var.uniform_(0.5, 1.5)
    return net.eval()


IMAGES = torch.rand(40, 1, 10, 10, generator=torch.Generator().manual_seed(2))
ROWS = torch.rand(96, 64, generator=torch.Generator().manual_seed(3))


def quantize(model: nn.Module, example: Tensor | None = None, **settings: Any) -> secateur.Quantized:
    return secateur.quantize(
        model, example, **{"samples": 64, "latency": False, "surrogate": "uniform", **settings}
    )


@cache
def by_scheme(scheme: str) -> secateur.Quantized:
    return quantize(dense(), ROWS[:1], scheme=scheme, calibration=ROWS)


def in_onnxruntime(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return torch.from_numpy(session.run(None, {name: images.numpy()})[0])


# --- schemes ------------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_gives_a_smaller_file_that_onnxruntime_runs(scheme: str, tmp_path: Path) -> None:
    made = by_scheme(scheme)
    made.save(tmp_path / "q.onnx")
    before, after = made.record.stages
    assert (tmp_path / "q.onnx").stat().st_size == after.bytes
    weights = sum(p.numel() for p in dense().parameters() if p.ndim == 2)
    stored = weights * BITS[scheme] / 8
    assert stored < after.bytes < 1.35 * stored + 8000 < before.bytes  # scales and the graph are the rest
    onnx.checker.check_model(str(tmp_path / "q.onnx"), full_check=False)
    with torch.no_grad():
        exact = dense()(ROWS)
    found = in_onnxruntime(tmp_path / "q.onnx", ROWS)
    assert found.dtype == torch.float32 and found.shape == exact.shape
    error = float((found - exact).square().mean().sqrt() / exact.std())
    assert 0 < error < (0.3 if scheme == "int4-weights" else 0.1)


def test_agreement_and_accuracy_are_those_computed_by_hand(tmp_path: Path) -> None:
    model, x, labels = blobs()
    made = quantize(model, x[:1], calibration=x, images=x, labels=labels)
    made.save(tmp_path / "q.onnx")
    before, after = made.record.stages
    with torch.no_grad():
        float_classes = model(x).argmax(1)
    classes = in_onnxruntime(tmp_path / "q.onnx", x).argmax(1)
    assert before.accuracy == pytest.approx(float((float_classes == labels).double().mean()))
    assert after.accuracy == pytest.approx(float((classes == labels).double().mean()))
    # A third of the inputs is held out; which one follows from the seed.
    held_out = torch.randperm(96, generator=torch.Generator().manual_seed(0))[:32].sort().values
    assert made.record.judged_on == 32 and made.record.calibrated_on == 64
    same = (float_classes == classes)[held_out]
    assert after.agreement == pytest.approx(float(same.double().mean()))


def test_ranges_are_those_of_the_values(tmp_path: Path) -> None:
    made = quantize(convolutional(), IMAGES[:1], calibration=IMAGES)
    calibrated = torch.randperm(40, generator=torch.Generator().manual_seed(0))[13:].sort().values
    with torch.no_grad():
        exact = convolutional()(IMAGES[calibrated])
    (output,) = (value.name for value in made.proto.graph.output)
    low, high = made.record.ranges[output]
    assert low == pytest.approx(float(exact.min()), abs=1e-5)
    assert high == pytest.approx(float(exact.max()), abs=1e-5)


def test_int8_has_a_scale_for_each_channel_and_batch_norm_folded() -> None:
    made = quantize(convolutional(), IMAGES[:1], calibration=IMAGES)
    ops = {node.op_type for node in made.proto.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops and "BatchNormalization" not in ops
    weights = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer}
    kernels = [w for w in weights.values() if w.ndim == 4]
    assert [k.dtype.name for k in kernels] == ["int8", "int8"]
    assert max(abs(k.astype(int)).max() for k in kernels) <= 64  # 7 bits
    scales = {len(w) for name, w in weights.items() if name.endswith("_scale") and w.ndim}
    assert {8, 16} <= scales
    assert "com.microsoft" not in {opset.domain for opset in made.proto.opset_import}


def test_a_dense_layer_becomes_a_product_that_computes_the_same(tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "net.onnx", dense(), ROWS[:1])
    proto = products(onnx.load(tmp_path / "net.onnx"))
    assert [n.op_type for n in proto.graph.node] == [
        "MatMul",
        "Add",
        "Relu",
        "MatMul",
        "Add",
        "Relu",
        "MatMul",
        "Add",
    ]
    onnx.save(proto, tmp_path / "products.onnx")
    with torch.no_grad():
        exact = dense()(ROWS)
    torch.testing.assert_close(in_onnxruntime(tmp_path / "products.onnx", ROWS), exact)


@pytest.mark.sweep
@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_every_node_in_float_the_model_is_the_float_model(scheme: str, tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "net.onnx", convolutional(), IMAGES[:1])
    row = SCHEMES[scheme]
    prepared = row.prepare(onnx.load(tmp_path / "net.onnx"))
    found = ranges_of(prepared, (IMAGES,)) if row.calibrated else {}
    onnx.save(row.apply(prepared, row.nodes(prepared), found), tmp_path / "float.onnx")
    with torch.no_grad():
        exact = convolutional()(IMAGES)
    torch.testing.assert_close(in_onnxruntime(tmp_path / "float.onnx", IMAGES), exact, atol=1e-5, rtol=1e-5)


def test_a_batch_that_the_file_fixes_is_filled(tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "net.onnx", dense(), ROWS[:1])
    proto = onnx.load(tmp_path / "net.onnx")
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 7
    onnx.save(proto, tmp_path / "seven.onnx")
    made = quantize(secateur.load_model(tmp_path / "seven.onnx"), scheme="fp16-weights", calibration=ROWS)
    with torch.no_grad():
        torch.testing.assert_close(made.run(ROWS)[0], dense()(ROWS), atol=1e-2, rtol=1e-2)


def test_nothing_global_is_changed() -> None:
    path, handlers, level = list(sys.path), list(logging.getLogger().handlers), logging.getLogger().level
    for scheme in ("fp16", "int4-weights"):
        by_scheme.__wrapped__(scheme)
    assert (sys.path, logging.getLogger().handlers, logging.getLogger().level) == (path, handlers, level)
    assert logging.root.manager.disable == 0


# --- nodes kept in float ------------------------------------------------------------------------------------


def chosen(agreements: dict[int, float], least: float | None, count: int = 8) -> tuple[Any, list[int]]:
    """`choose` on made-up nodes whose agreement depends on how many are in float; and what was tried."""
    tried = []

    def build(kept: Collection[str]) -> int:
        tried.append(len(kept))
        return len(kept)

    names = [f"n{i}" for i in range(count)]
    agreement = lambda made: agreements[max(k for k in agreements if k <= made)]  # noqa: E731
    return choose(names, build, agreement, least, lambda: names[::-1]), tried


def test_as_few_nodes_stay_in_float_as_keep_the_budget() -> None:
    for needed in range(8):
        found, tried = chosen({0: 0.5, needed: 0.9}, 0.9)
        assert found.kept == tuple(f"n{i}" for i in range(7, 7 - needed, -1))
        assert found.agreement == 0.9 and found.proto == needed and len(tried) <= 7


def test_without_a_budget_every_node_is_quantised() -> None:
    found, tried = chosen({0: 0.1}, None)
    assert (found.kept, tried) == ((), [0])


def test_a_budget_that_cannot_hold_is_an_error() -> None:
    with pytest.raises(TargetMissedError, match=r"is 50\.00% with every node in float, below 90\.00%"):
        chosen({0: 0.5}, 0.9)
    with pytest.raises(TargetMissedError, match=r"is below 90\.00% as long as any node is quantised"):
        chosen({0: 0.5, 8: 1.0}, 0.9)


def test_the_worst_node_comes_first() -> None:
    harm = {"a": 0.1, "b": 3.0, "c": 1.0}

    def build(kept: Collection[str]) -> float:
        return sum(loss for name, loss in harm.items() if name not in kept)

    assert by_loss(["a", "b", "c"], build, lambda made: torch.tensor([made]), False) == ["b", "c", "a"]


def test_a_budget_keeps_nodes_in_float() -> None:
    """One layer whose channels are of very different sizes, so that 8 bits for its values lose the small ones."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)).eval()
    with torch.no_grad():
        net[2].weight[0] *= 3000.0  # its value sets the range of all
        net[4].weight[:, 0] = 0.0
    x = torch.rand(180, 16, generator=torch.Generator().manual_seed(4))
    free = quantize(net, x[:1], calibration=x, samples=120)
    assert free.record.kept_float == () and (free.record.stages[-1].agreement or 0) < 0.9
    held = quantize(net, x[:1], calibration=x, samples=120, min_agreement=0.9)
    # The two that make and read that value; the first layer has no part in it.
    assert set(held.record.kept_float) == {"node_linear_1", "node_linear_2"} and held.record.nodes == 3
    assert (held.record.stages[-1].agreement or 0) >= 0.9
    assert "in float: " in repr(held)
    kinds = {t.name: t.data_type for t in held.proto.graph.initializer}
    stored = {
        name: kinds.get(f"{name}_quantized", kinds.get(name)) for name in ("0.weight", "2.weight", "4.weight")
    }
    assert stored == {"0.weight": 3, "2.weight": 1, "4.weight": 1}  # int8 and float
    held_out = torch.randperm(180, generator=torch.Generator().manual_seed(0))[:60]
    with torch.no_grad():
        same = held.run(x[held_out])[0].argmax(1) == net(x[held_out]).argmax(1)
    assert float(same.double().mean()) == pytest.approx(held.record.stages[-1].agreement)


# --- what is said -------------------------------------------------------------------------------------------


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scheme": "int7"}, r"scheme='int7': there are int8, fp16, "),
        ({"scheme": "bf16"}, r"no bfloat16 convolutions and products on CPUs; take bf16-weights"),
        ({"scheme": "int4"}, r"take int4-weights"),
        ({"min_agreement": 2}, r"min_agreement=2: give a share of the decisions, from 0 to 1"),
        ({"images": ROWS}, r"images and labels go together"),
        ({"images": ROWS, "labels": torch.zeros(3, dtype=torch.int64)}, r"labels: 3 for 96 images"),
        ({"head": "none", "min_agreement": 0.9}, r"min_agreement: the model decides nothing"),
    ],
)
def test_what_cannot_be_used_is_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        quantize(dense(), ROWS[:1], **settings)


def test_a_model_without_products_has_no_weights_in_4_bits() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 8), nn.Flatten()).eval()
    with pytest.raises(InputError, match=r"int4-weights: the model has no node .* \(its ops: Conv, "):
        quantize(net, IMAGES[:1], scheme="int4-weights")


def test_half_precision_is_refused_by_the_name_of_the_weight() -> None:
    with pytest.raises(InputError, match=r"quantize: the .* is of type float64; give a model in float32"):
        quantize(nn.Sequential(nn.Linear(4, 4)).double().eval(), torch.zeros(1, 4, dtype=torch.float64))


def test_a_model_that_is_not_faster_is_said_to_be_so() -> None:
    stages = (Stage(name="float", bytes=9, ms=1.0), Stage(name="quantised", bytes=3, ms=1.5, agreement=0.5))
    record = Quantization(scheme="int8", runtime="", nodes=1, stages=stages, digest="0" * 64)
    assert record.slower and "one sample takes 1 ms before and 1.5 ms after" in record.lines()[-1]
    faster = record.model_copy(update={"stages": (stages[0], stages[1].model_copy(update={"ms": 0.5}))})
    assert not faster.slower and len(faster.lines()) == 1
    larger = faster.model_copy(
        update={"stages": (stages[0], faster.stages[1].model_copy(update={"bytes": 12}))}
    )
    assert (
        larger.larger and "did not make the file smaller: 9 bytes before and 12 after" in larger.lines()[-1]
    )


def test_a_file_that_is_not_smaller_is_warned_of() -> None:
    """Of a few weights, scales and further nodes weigh more."""
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with pytest.warns(secateur.errors.SecateurWarning, match="int8 did not make the file smaller"):
        quantize(net, torch.zeros(1, 3))


# --- recipes ------------------------------------------------------------------------------------------------


@cache
def pruned() -> secateur.Result:
    return secateur.prune(dense(), ROWS[:1], remove=0.5, calibration=ROWS, samples=64)


@pytest.mark.long
def test_stages_after_pruning(tmp_path: Path) -> None:
    small = pruned().model
    made = quantize(small, ROWS[:1], original=dense(), calibration=ROWS)
    original, cut, quantised = made.record.stages
    assert [s.name for s in made.record.stages] == ["original", "pruned", "quantised"]
    assert original.bytes > cut.bytes > quantised.bytes and original.agreement is None
    verdict = pruned().verdict
    assert verdict is not None and cut.agreement == pytest.approx(
        verdict.agreement
    )  # the same held-out inputs


@pytest.mark.long
def test_a_recipe_makes_the_same_bytes_again(tmp_path: Path) -> None:
    made = quantize(pruned().model, ROWS[:1], original=dense(), calibration=ROWS)
    pruned().recipe.with_quantization(made.record).save(tmp_path / "r.recipe.json")
    read = secateur.Recipe.load(tmp_path / "r.recipe.json")
    assert read.schema_version == 3 and read.quantized == made.record
    again = quantize_again(secateur.replay(dense(), read), read.quantized, ROWS[:2])
    assert again.record.digest == made.record.digest
    assert again.proto.SerializeToString() == made.proto.SerializeToString()
    other = read.quantized.model_copy(update={"kept_float": ("nothing",)})
    with pytest.raises(RecipeError, match="another graph"):
        quantize_again(pruned().model, other, ROWS[:2])


def test_recipes_without_quantisation_stay_readable_by_older_versions(tmp_path: Path) -> None:
    pruned().recipe.save(tmp_path / "r.recipe.json")
    content = json.loads((tmp_path / "r.recipe.json").read_text())
    assert content["schema_version"] == 2 and "quantized" not in content


# --- quantised files as input --------------------------------------------------------------------------------


def saved(model: nn.Module, images: Tensor, path: Path) -> Path:
    quantize(model, images[:1], calibration=images).save(path)
    return path


def test_a_quantised_file_has_a_float_form(tmp_path: Path) -> None:
    path = saved(convolutional(), IMAGES, tmp_path / "q.onnx")
    model = load_dequantised(path)
    ops = [node.op_type for node in model.proto.graph.node]
    assert ops.count("Relu") == 2  # which the quantiser had left out
    assert not {"QuantizeLinear", "DequantizeLinear"} & set(ops)
    with torch.no_grad():
        found, exact = model(IMAGES), convolutional()(IMAGES)
    rounded = in_onnxruntime(path, IMAGES)
    for other in (exact, rounded):
        assert float((found - other).square().mean().sqrt() / exact.std()) < 0.1
    assert [v.name for v in model.proto.graph.output] == [v.name for v in onnx.load(path).graph.output]


def test_weights_are_those_that_the_file_stands_for(tmp_path: Path) -> None:
    path = saved(dense(), ROWS, tmp_path / "q.onnx")
    weights = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    (name,) = (n.output[0] for n in onnx.load(path).graph.node if n.input[0] == "0.weight_quantized")
    by_hand = weights["0.weight_quantized"].astype(np.float32) * weights["0.weight_scale"][:, None]
    found = {t.name: numpy_helper.to_array(t) for t in load_dequantised(path).proto.graph.initializer}[name]
    np.testing.assert_array_equal(found, by_hand)
    assert abs(found - dense()[0].weight.detach().numpy()).max() <= 0.51 * weights["0.weight_scale"].max()


def test_agreement_is_with_the_quantised_file(tmp_path: Path) -> None:
    path = saved(dense(), ROWS, tmp_path / "q.onnx")
    model = load_dequantised(path)
    small = secateur.prune(model, remove=0.5, calibration=ROWS, samples=64).model
    made = quantize(small, original=model, calibration=ROWS)
    assert made.record.stages[0].bytes == path.stat().st_size


def test_files_without_a_float_form_are_refused_by_the_names_of_their_nodes(tmp_path: Path) -> None:
    by_scheme("int4-weights").save(tmp_path / "four.onnx")
    with pytest.raises(UnsupportedOpError, match=r"Quantised are com\.microsoft\.MatMulNBits 'node_linear"):
        load_dequantised(tmp_path / "four.onnx")
    proto = onnx.load(saved(dense(), ROWS, tmp_path / "q.onnx"))
    first = next(n for n in proto.graph.node if n.op_type == "QuantizeLinear")
    proto.graph.output.append(onnx.ValueInfoProto(name=first.output[0], type=proto.graph.input[0].type))
    proto.graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(proto, tmp_path / "rounded.onnx")
    with pytest.raises(
        UnsupportedOpError, match=r"has no float form: the output '.*'; prune the floating-point"
    ):
        load_dequantised(tmp_path / "rounded.onnx")
    with pytest.raises(
        UnsupportedOpError,
        match=r"is quantised; prune or certify the floating-point .* are DequantizeLinear '",
    ):
        secateur.load_model(tmp_path / "q.onnx")


def test_scales_that_do_not_fit_their_weights_are_refused(tmp_path: Path) -> None:
    proto = onnx.load(saved(dense(), ROWS, tmp_path / "q.onnx"))
    for node in proto.graph.node:
        if node.input[0] == "0.weight_quantized":
            next(a for a in node.attribute if a.name == "axis").i = 1
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(
        UnsupportedOpError, match=r"scales of shape \(128,\) for weights of shape \(128, 64\)"
    ):
        load_dequantised(tmp_path / "bad.onnx")


# --- the command --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("user")
    secateur.save_model(path / "net.onnx", convolutional(), IMAGES[:1])
    with torch.no_grad():
        labels = convolutional()(IMAGES).argmax(1)
    np.savez(path / "data.npz", images=IMAGES.numpy(), labels=labels.numpy())
    return path


@pytest.mark.long
def test_prune_and_quantise_in_one_command(folder: Path) -> None:
    done = run(
        folder, "prune", "net.onnx", "--remove", "50%", "-o", "small.onnx", "--quantize", "int8", "--samples", "64", "--calibration",
        "data.npz", "--data", "data.npz", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["quantized"]
    original, cut, quantised = report["stages"]
    assert (
        original["accuracy"] == 1.0
        and 0 < quantised["accuracy"] <= 1.0
        and min(cut["ms"], quantised["ms"]) > 0
    )
    assert (folder / "small.onnx").stat().st_size == quantised["bytes"]
    done = run(folder, "replay", "net.onnx", "small.recipe.json", "-o", "again.onnx")
    assert done.returncode == 0 and "made anew" not in done.stderr
    assert (folder / "again.onnx").read_bytes() == (folder / "small.onnx").read_bytes()
    done = run(folder, "certify", "net.onnx", "small.onnx")
    assert done.returncode == 1 and "nothing is proved of quantised models" in done.stderr


@pytest.mark.slow
def test_the_command_quantises_a_file(folder: Path) -> None:
    done = run(folder, "quantize", "net.onnx", "-o", "q.onnx", "--samples", "64", "--data", "data.npz")
    assert done.returncode == 0, done.stderr
    assert "float" in done.stdout and "quantised" in done.stdout and "wrote q.onnx" in done.stdout
    assert in_onnxruntime(folder / "q.onnx", IMAGES).shape == (40, 4)


@pytest.mark.slow
def test_a_quantised_file_is_pruned_and_quantised_again(folder: Path) -> None:
    saved(convolutional(), IMAGES, folder / "first.onnx")
    done = run(
        folder,
        *("prune", "first.onnx", "--remove", "50%", "-o", "second.onnx"),
        *("--samples", "64", "--surrogate", "uniform"),
    )
    assert done.returncode == 0, done.stderr
    assert "its dequantised weights are pruned, and quantised again with int8" in done.stderr
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(folder / "second.onnx").graph.node}
    assert (folder / "second.onnx").stat().st_size < (folder / "first.onnx").stat().st_size
    done = run(folder, "prune", "first.onnx", "-o", "second.pt2")
    assert done.returncode == 1 and "quantised models are written as .onnx files" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("prune", "net.onnx", "-o", "x.pt2", "--quantize", "int8"), 1, "a .pt2 file is quantised by torchao"),
        (("prune", "net.onnx", "-o", "x.onnx", "--quantize", "bf16"), 1, "take bf16-weights"),
        (("prune", "net.onnx", "-o", "x.onnx", "--data", "data.npz"), 1, "--data goes with --quantize"),
        (("quantize", "net.onnx", "-o", "net.onnx"), 1, "is read and stays as it is"),
        (("quantize", "net.onnx", "-o", "x.txt"), 1, "give a name that ends in .onnx"),  # as for prune
        (
            ("quantize", "net.onnx", "-o", "x.onnx", "--scheme", "int4-weights", "--samples", "32",
             "--min-agreement", "1.0", "--surrogate", "uniform"),
            3,
            "Nothing was written",
        ),
    ],
)  # fmt: skip
def test_errors_as_a_user_sees_them(folder: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = run(folder, *arguments)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert not (folder / arguments[3]).exists() or arguments[3] == "net.onnx"


def test_the_optimised_model_computes_the_same(tmp_path: Path) -> None:
    secateur.save_model(tmp_path / "net.onnx", convolutional(), IMAGES[:1])
    onnx.save(optimised(onnx.load(tmp_path / "net.onnx")), tmp_path / "fast.onnx")
    with torch.no_grad():
        torch.testing.assert_close(
            in_onnxruntime(tmp_path / "fast.onnx", IMAGES), convolutional()(IMAGES), atol=1e-5, rtol=1e-5
        )
