"""What a user gives that is not a plain float model on plain tensors: it works, or the error says what to
do.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils import prune as masking

import secateur
from secateur.bounds.interval import require_rules
from secateur.errors import (
    CaptureError,
    InputError,
    NothingToPruneError,
    SecateurError,
    UnsupportedOpError,
    few,
)
from secateur.explain import table
from secateur.graph.capture import capture


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


EXAMPLE = torch.rand(2, 4, generator=torch.Generator().manual_seed(1))


def pruned(model: nn.Module, example: Any = EXAMPLE) -> secateur.Result:
    return secateur.prune(model, example, remove=0.5, method="scale")


# --- modules that are no float models -----------------------------------------------------------------------


def on_meta() -> nn.Module:
    model = mlp()
    model[2] = nn.Linear(6, 6, device="meta").eval()
    return model


def made_in_inference_mode() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(nn.Linear(4, 3)).eval()


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(3)).eval()


def dynamically_quantised() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}, dtype=torch.qint8)  # type: ignore[no-any-return]


def statically_quantised() -> nn.Module:
    return torch.ao.quantization.convert(observed())  # type: ignore[no-any-return]


def observed() -> nn.Module:
    model = nn.Sequential(torch.ao.quantization.QuantStub(), *mlp()).eval()
    model.qconfig = torch.ao.quantization.default_qconfig
    prepared = torch.ao.quantization.prepare(model)
    prepared(EXAMPLE)
    return prepared  # type: ignore[no-any-return]


def part_scripted() -> nn.Module:
    return nn.Sequential(torch.jit.script(mlp()), nn.Linear(3, 2)).eval()


def masked() -> nn.Module:
    model = mlp()
    masking.l1_unstructured(model[0], "weight", 0.5)
    masking.random_unstructured(model[4], "bias", 1)
    masking.random_unstructured(model[4], "bias", 1)  # a container of two
    return model


UNFIT: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "meta": (on_meta, ("no values for 2.weight, 2.bias", "meta device", "assign=True")),
    "inference mode": (made_in_inference_mode, ("0.weight, 0.bias", "copy.deepcopy")),
    "lazy": (lazy, ("0.weight, 0.bias", "Run the model once")),
    "dynamic": (dynamically_quantised, ("0 (torch.ao.nn.quantized.dynamic.Linear)", "Prune the float model")),
    "static": (statically_quantised, ("1 (torch.ao.nn.quantized.Linear)", "quantise the smaller one")),
    "observed": (observed, ("prepared for quantisation", "Observer", "Prune the float model first")),
    "scripted": (
        lambda: torch.jit.script(mlp()),
        ("TorchScript", "the model", "scripted.state_dict()", "load_model"),
    ),
    "traced": (lambda: torch.jit.trace(mlp(), EXAMPLE), ("TorchScript", "the model", "dynamo=False")),
    "part": (part_scripted, ("TorchScript", "capture: 0.", "state_dict")),
    "masked": (
        masked,
        (
            "prune.remove(model.get_submodule('0'), 'weight')",
            "prune.remove(model.get_submodule('4'), 'bias')",
        ),
    ),
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::UserWarning"
)  # torch's, on its own quantisation
def test_told_what_it_is_and_what_to_do(name: str, tmp_path: Path) -> None:
    build, words = UNFIT[name]
    model = build()
    for use in (lambda: pruned(model), lambda: secateur.save_model(tmp_path / "m.pt2", model, EXAMPLE)):
        with pytest.raises(CaptureError) as caught:
            use()
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert "control flow" not in str(caught.value).lower()


def test_float_models_made_to_be_quantised_are_float_models() -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.add = (
                nn.Linear(4, 6),
                nn.Linear(6, 3),
                torch.ao.nn.quantized.FloatFunctional(),
            )
            self.quant = torch.ao.quantization.QuantStub()

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(self.quant(x)).relu()
            return self.b(self.add.add(y, y))  # type: ignore[no-any-return]

    assert pruned(Adds().eval()).model.a.out_features == 3


def test_evaluate_names_weights_on_meta() -> None:
    with pytest.raises(CaptureError, match=r"no values for 2\.weight"):
        secateur.evaluate(on_meta(), torch.rand(4, 4), torch.zeros(4, dtype=torch.int64))


def test_masks_made_permanent_as_told() -> None:
    model = masked()
    masking.remove(model.get_submodule("0"), "weight")
    masking.remove(model.get_submodule("4"), "bias")
    assert pruned(model).model[0].out_features == 3  # type: ignore[index]


class RoundsByTorch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, 0.1, 0, 0, 255) * 2


class RoundsAsExported(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        importlib.import_module("torch.ao.quantization.fx._decomposed")  # defines the ops

    def forward(self, x: Tensor) -> Tensor:
        ops = torch.ops.quantized_decomposed
        whole = ops.quantize_per_tensor.default(x, 0.1, 0, 0, 255, torch.uint8)
        return ops.dequantize_per_tensor.default(whole, 0.1, 0, 0, 255, torch.uint8) * 2  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [RoundsByTorch(), RoundsAsExported()], ids=["torch", "pt2e"])
def test_quantised_ops_in_forward(model: nn.Module) -> None:

    with pytest.raises(
        CaptureError, match=r"quantize_per_tensor.*line \d+.*Prune the float model, then quantise"
    ):
        capture(model.eval(), EXAMPLE)


_REMOVE = "torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule('2'), 'weight')"


@pytest.mark.parametrize(
    ("norm", "undo"),
    [
        *((getattr(parametrizations, f), _REMOVE) for f in ("weight_norm", "spectral_norm", "orthogonal")),
        (nn.utils.weight_norm, "torch.nn.utils.remove_weight_norm(model.get_submodule('2'), 'weight')"),
        (nn.utils.spectral_norm, "torch.nn.utils.remove_spectral_norm(model.get_submodule('2'), 'weight')"),
    ],
    ids=["weight", "spectral", "orthogonal", "old_weight", "old_spectral"],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's, on its older weight norm
def test_computed_weights_pin_their_layer_and_say_how_to_undo_it(
    norm: Callable[..., nn.Module], undo: str
) -> None:
    model = mlp()
    model.append(nn.ReLU()).append(nn.Linear(3, 2))
    norm(model[2])
    model.eval()
    result = pruned(model)
    assert {g.group for g in result.recipe.groups} == {"4"}  # 0 is read by 2, and 6 is the output
    assert undo in result.explain()
    eval(undo, {"torch": torch, "model": model})  # noqa: S307 (our own words)
    assert {g.group for g in pruned(model).recipe.groups} == {"0", "2", "4"}


def test_reasons_in_an_error_stand_once() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    parametrizations.weight_norm(model[0])
    with pytest.raises(NothingToPruneError) as caught:
        pruned(model.eval())
    assert str(caught.value).count("remove_parametrizations") == 1


class LeavesTorch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.detach().numpy() * 2)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (LeavesTorch(), r"test_messages\.py line \d+: return torch\.from_numpy.*use torch's functions"),
        (Branches(), r"test_messages\.py line \d+: if x\.sum\(\) > 0:\).*Control flow .*torch\.where"),
    ],
    ids=["numpy", "branch"],
)
def test_what_export_cannot_follow_is_named_with_its_line(model: nn.Module, text: str) -> None:
    with pytest.raises(CaptureError, match=text):
        capture(model.eval(), EXAMPLE)


def test_an_op_without_bounds_is_named_with_its_line() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(torch.where(y > 0.5, 0.0, y))  # type: ignore[no-any-return]

    with pytest.raises(
        UnsupportedOpError, match=r"gt: there is no rule to bound aten\.gt\.Scalar \(.*line \d+: return"
    ):
        secateur.prune(Masked().eval(), EXAMPLE, remove=0.5, method="impact")


def test_lists_end_after_five() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            for f in ("sinc", "i0", "erfinv", "lgamma", "digamma", "frac", "trunc"):
                y = getattr(torch, f)(y)
            return self.b(y)  # type: ignore[no-any-return]

    with pytest.raises(
        UnsupportedOpError, match=r"Ops of this model without a rule: [^,]*(, [^,]*){4} and 2 more\."
    ):
        require_rules(capture(Odd().eval(), EXAMPLE))
    assert few(["a", "b"]) == "a, b"
    assert few(list("abcdefg")) == "a, b, c, d, e and 2 more"
    model = nn.Sequential(*(nn.Linear(4, 4, device="meta") for _ in range(6))).eval()
    with pytest.raises(CaptureError, match=r"2\.weight and 7 more: these"):
        capture(model, EXAMPLE)


# --- arguments that are no tensors --------------------------------------------------------------------------


class Options(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, scale: bool = True, times: int = 1, mode: str = "relu"
    ) -> Tensor:
        y = self.a(x)
        y = y if mask is None else y * mask
        y = y * 0.5 if scale else y
        for _ in range(times):
            y = y.relu() if mode == "relu" else y.tanh()
        return self.b(y)  # type: ignore[no-any-return]


class BakedOptions(Options):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # type: ignore[override]
        return super().forward(*args, **kwargs).reshape(-1, 3) + self.b(self.a(args[0]).reshape(-1, 8)) * 0


EXAMPLES: dict[str, Any] = {
    "none": (EXAMPLE, None),
    "flag": (EXAMPLE, None, False),
    "by_name": {"x": EXAMPLE, "mask": None, "scale": False, "times": 2, "mode": "tanh"},
    "tensor_last": {"scale": False, "mask": torch.rand(2, 1), "x": EXAMPLE},
}


def called(model: nn.Module, example: Any) -> Tensor:
    return model(**example) if isinstance(example, dict) else model(*example)  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_constants_among_the_inputs(name: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    model = Options().eval()
    result = secateur.prune(model, example, remove=0.5, samples=64)
    assert type(result.model) is Options and result.model.a.out_features == 4
    again = secateur.replay(model, result.recipe, example)
    assert torch.equal(called(again, example), called(result.model, example))
    for suffix in ("pt2", "onnx"):
        path = tmp_path / f"small.{suffix}"
        secateur.save_model(path, result.model, example)
        loaded = secateur.load_model(path)
        assert len(secateur.prune(loaded, method="scale", remove=0.3).recipe.inputs) == len(
            result.recipe.inputs
        )


def test_constants_hold_in_a_graph_too() -> None:
    model = BakedOptions().eval()
    small = pruned(model, (EXAMPLE, None, False)).model
    assert isinstance(small, torch.fx.GraphModule)
    assert small(EXAMPLE, None, False).shape == (2, 3)
    with pytest.raises(AssertionError, match="must be False: the model was pruned for this value"):
        small(EXAMPLE, None, True)
    again = pruned(small, (EXAMPLE, None, False)).model
    assert again(EXAMPLE, None, False).shape == (2, 3)


def test_a_program_has_its_own_constants() -> None:
    program = torch.export.export(Options().eval(), (EXAMPLE, None, False), strict=False)
    assert len(capture(program).example) == 1
    assert capture(program, (EXAMPLE,)).constants == capture(program).constants
    with pytest.raises(InputError, match="scale is True, but the program was exported with False"):
        capture(program, (EXAMPLE, None, True))


def test_keyword_arguments_of_a_program_go_by_name() -> None:
    named = {"x": EXAMPLE, "mask": torch.rand(2, 8)}
    program = torch.export.export(Options().eval(), (), named, strict=False)
    assert [tuple(x.shape) for x in capture(program, dict(reversed(named.items()))).example] == [
        (2, 4),
        (2, 8),
    ]


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (EXAMPLE.numpy(), r"example_inputs is a ndarray; give a tensor"),
        ((EXAMPLE.numpy(),), r"example_inputs\[0\] holds a numpy\.ndarray.*torch\.from_numpy"),
        ({"x": EXAMPLE, "mask": object()}, r"example_inputs\['mask'\] holds a object"),
        ((EXAMPLE.to("meta"),), r"example_inputs\[0\] is on the meta device"),
        ("image", r"example_inputs is a str"),
    ],
)
def test_other_arguments_are_refused_by_name(example: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        capture(Options().eval(), example)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(3, 10), nn.Linear(10, 4)

    def forward(self, samples: Tensor, mask: Tensor) -> Tensor:
        return self.o((self.a(samples).relu() * mask).sum(1) / (1 + mask.abs().sum(1)))  # type: ignore[no-any-return]


@pytest.mark.slow
def test_dict_inputs_to_onnx_keep_their_names(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model, named = Masked().eval(), {"mask": torch.ones(2, 5, 1), "samples": torch.rand(2, 5, 3)}
    secateur.save_model(tmp_path / "m.onnx", model, named)
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["mask", "samples"]
    more = {"mask": torch.rand(7, 5, 1), "samples": torch.rand(7, 5, 3)}
    (found,) = session.run(None, {name: x.numpy() for name, x in more.items()})
    torch.testing.assert_close(torch.from_numpy(found), model(**more).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_nested_inputs_to_onnx_are_named_by_their_keys(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")

    class Nested(nn.Module):
        def forward(self, batch: dict[str, Any]) -> Tensor:
            return batch["a"] + batch["b"][0] * batch["b"][1]  # type: ignore[no-any-return]

    example = {"batch": {"a": EXAMPLE, "b": [EXAMPLE + 1, EXAMPLE + 2]}}
    secateur.save_model(tmp_path / "m.onnx", Nested().eval(), example)
    assert [i.name for i in onnx.load(tmp_path / "m.onnx").graph.input] == [
        "batch_a",
        "batch_b_0",
        "batch_b_1",
    ]


def test_the_cause_of_a_failed_onnx_export_is_told(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")

    class Unwritable(nn.Module):
        def forward(self, samples: Tensor) -> Tensor:
            return torch.linalg.lstsq(samples, samples).solution  # type: ignore[no-any-return]

    with pytest.raises(SecateurError, match=r"(?i)lstsq"):
        secateur.save_model(tmp_path / "m.onnx", Unwritable().eval(), {"samples": torch.rand(2, 4, 4)})
    assert not list(tmp_path.iterdir())


# --- outputs that are objects -------------------------------------------------------------------------------


@dataclasses.dataclass
class Answer:
    logits: Tensor
    hidden: Tensor | None = None
    name: str = "net"


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    logits: Tensor
    parts: list[Any]


class Pair(NamedTuple):
    logits: Tensor
    extra: Any


class Mapped(collections.OrderedDict[str, Tensor]):
    """As the outputs of Hugging Face's models."""


@dataclasses.dataclass
class ModelOutput(collections.OrderedDict[str, Tensor]):
    logits: Tensor
    hidden: Tensor | None = None

    def __post_init__(self) -> None:
        self["logits"] = self.logits


class Returns(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any], baked: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.make, self.baked = nn.Linear(4, 8), nn.Linear(8, 3), make, baked

    def forward(self, x: Tensor) -> Any:
        y = self.a(x).relu()
        return self.make(self.b(y.reshape(-1, 8) if self.baked else y))


OUTPUTS: dict[str, Callable[[Tensor], Any]] = {
    "dataclass": Answer,
    "slots": lambda y: Slotted(y, [y * 2, Answer(y)]),
    "named_tuple": lambda y: Pair(y, {"twice": y * 2, "none": None}),
    "mapping": lambda y: Mapped(logits=y),
    "model_output": ModelOutput,
    "namespace": lambda y: SimpleNamespace(logits=y, kind=torch.float32),
    "nested": lambda y: {"a": [Answer(y), (y, None, "text", 3)]},
    "sizes": lambda y: (y, y.shape),
}


@pytest.mark.parametrize("baked", [False, True], ids=["own_class", "graph"])
@pytest.mark.parametrize("name", OUTPUTS)
def test_objects_come_out_of_the_pruned_model(name: str, baked: bool, tmp_path: Path) -> None:
    model = Returns(OUTPUTS[name], baked).eval()
    small = pruned(model).model
    more = torch.rand(5, 4)
    assert type(small) is Returns or baked
    if type(small) is Returns:
        assert type(small(more)) is type(model(more))
    assert leaves(small(more))[0].shape == (5, 3)
    secateur.save_model(tmp_path / "m.pt2", small, EXAMPLE)
    program = secateur.load_model(tmp_path / "m.pt2")
    found = leaves(program.module()(more))  # type: ignore[operator]
    torch.testing.assert_close(found, leaves(small(more)))


def leaves(output: Any) -> list[Tensor]:
    """All tensors, by hand."""
    if isinstance(output, Tensor):
        return [output]
    if dataclasses.is_dataclass(output):
        return [t for f in dataclasses.fields(output) for t in leaves(getattr(output, f.name))]
    if isinstance(output, SimpleNamespace):
        return leaves(vars(output))
    if isinstance(output, dict):
        return [t for value in output.values() for t in leaves(value)]
    return [t for value in output for t in leaves(value)] if isinstance(output, list | tuple) else []


@pytest.mark.slow
def test_objects_go_to_onnx_as_their_tensors(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    secateur.save_model(tmp_path / "m.onnx", Returns(OUTPUTS["nested"]).eval(), EXAMPLE)
    assert len(onnx.load(tmp_path / "m.onnx").graph.output) == 2


def test_an_object_that_cannot_be_looked_into_is_named() -> None:
    class Box:
        def __init__(self, y: Tensor) -> None:
            self.y = y

    with pytest.raises(CaptureError, match=r"output holds a Box, .*return tensors in a tuple"):
        capture(Returns(lambda y: {"box": Box(y)}).eval(), EXAMPLE)


def test_capture_leaves_the_model_and_the_registry_alone() -> None:
    model = Returns(Answer).eval()
    before = copy.deepcopy(model.state_dict())
    capture(model, EXAMPLE)
    assert "forward" not in vars(model) and isinstance(model(EXAMPLE), Answer)
    assert torch.utils._pytree.tree_is_leaf(Answer(EXAMPLE))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not parametrize.is_parametrized(model) and "state" in table(secateur.inspect(model, EXAMPLE))
