"""Capturing: the graph computes what the model does at any batch size, and what cannot be captured is said
so.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.export import export

from architectures import ARCHITECTURES, UNCAPTURABLE
from helpers import batch_of, coupled, outputs, same_bits, snapshot
from secateur.errors import CaptureError, InputError
from secateur.graph.capture import capture
from secateur.graph.interpret import run
from secateur.graph.node import kind

BATCH_FREE = (
    "mlp_relu mlp_mixer cnn_batch_norm cnn_view cnn_baked_sizes resnet_inplace squeeze_excite_linear decoder "
    "attention_fused attention_grouped_query multihead_weights multihead_no_weights encoder_layer_post_norm "
    "vision_transformer tied_embedding lstm two_inputs dict_output siamese"
).split()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


@pytest.mark.sweep
@pytest.mark.parametrize("name", BATCH_FREE)
def test_graph_computes_what_the_model_does_at_any_batch_size(name: str) -> None:
    graph, _ = coupled(name)
    model = ARCHITECTURES[name].build()
    for batch in (1, 3, 5):
        inputs = batch_of(graph.example, batch)
        for mine, wanted in zip(run(graph, inputs), outputs(model, inputs), strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_no_node_changes_its_inputs(name: str) -> None:
    """In-place ops have become functional, so that a node's value is the same for all its users."""
    for node in coupled(name)[0].nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            assert not node.target._schema.is_mutable, node


def test_in_place_sum_and_activation_keep_their_order() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y += 1
            z = y * 3  # reads y after the sum, before the activation
            y.relu_()
            return y + z

    graph = capture(InPlace().eval(), torch.randn(2, 4))
    x = torch.randn(3, 4)
    (out,) = run(graph, [x])
    torch.testing.assert_close(out, (2 * x + 1).relu() + 3 * (2 * x + 1))


def test_batch_of_one_is_doubled() -> None:
    graph = capture(mlp(), torch.randn(1, 4))
    assert graph.example[0].shape == (2, 4)
    assert run(graph, [torch.randn(1, 4)])[0].shape == (1, 3)


def test_dict_of_inputs_goes_by_name() -> None:
    image, table = ARCHITECTURES["two_inputs"].example()
    model = ARCHITECTURES["two_inputs"].build()
    graph = capture(model, {"table": table, "image": image})
    torch.testing.assert_close(run(graph, graph.example)[0], outputs(model, (image, table))[0])


def test_parameters_are_told_from_buffers() -> None:
    graph, _ = coupled("cnn_batch_norm")
    names = {name for name, _ in ARCHITECTURES["cnn_batch_norm"].build().named_parameters()}
    assert set(graph.parameters) == names
    assert set(graph.tensors) - names == {f"{i}.running_{s}" for i in (1, 4, 8) for s in ("mean", "var")}


@pytest.mark.slow
def test_tied_weights_have_all_their_names() -> None:
    graph, _ = coupled("tied_embedding")
    (name,) = graph.tensors.keys() & {"embed.weight", "output.weight"}
    assert set(graph.aliases[name]) == {"embed.weight", "output.weight"}


def test_other_weights_and_precision_can_be_run() -> None:
    graph, _ = coupled("mlp_relu")
    (inputs,) = graph.example
    seen: list[fx.Node] = []
    zero = {"6.weight": torch.zeros(5, 9)}
    (out,) = run(
        graph, [inputs], zero, observe=lambda node, args, value: seen.append(node), dtype=torch.float64
    )
    torch.testing.assert_close(out, graph.tensors["6.bias"].double().expand(2, 5))
    assert [kind(node) for node in seen] == ["linear", "relu"] * 3 + ["linear"]


@pytest.mark.parametrize("name", ["mlp_relu", "resnet_basic", "multihead_no_weights", "tied_embedding"])
def test_model_is_untouched(name: str) -> None:
    model = ARCHITECTURES[name].build()
    before, identity = snapshot(model), {n: id(p) for n, p in model.named_parameters()}
    graph = capture(model, ARCHITECTURES[name].example())
    run(graph, graph.example)
    assert same_bits(before, snapshot(model))
    assert identity == {n: id(p) for n, p in model.named_parameters()}
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(module.training or module._forward_hooks for module in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()


# --- exported programs --------------------------------------------------------------------------------------


class Viewed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.view(x.shape[0], -1)).relu()


def test_exported_program_that_bakes_the_leading_size_of_a_view() -> None:
    model = Viewed().eval()
    graph = capture(export(model, (torch.randn(2, 3, 4),)))
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(run(graph, [x])[0], model(x).detach())


def test_exported_program_with_a_batch_of_one() -> None:
    model = Viewed().eval()
    graph = capture(export(model, (torch.randn(1, 3, 4),)))
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(run(graph, [x])[0], model(x).detach())


class OneForEach(nn.Module):
    """Adds another row to each sample of a batch of two."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.rows


def test_exported_program_with_a_fixed_batch() -> None:
    with pytest.raises(
        CaptureError,
        match=r"fixes its batch size at 2; make axis 0 dynamic where it is exported.* It is fixed by add "
        r"\(aten\.add\.Tensor, .*test_capture\.py line \d+: return x \+ self\.rows\), which reads the tensor rows",
    ):
        capture(export(OneForEach().eval(), (torch.randn(2, 4),)))


class Gram(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        return (y @ y.transpose(0, 1)).relu()


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        start = torch.zeros(2, 4)
        return torch.cat([start, x], 1).reshape(2, 8)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            Gram(),
            r"fixed by matmul .*line \d+: return \(y @ y.transpose\(0, 1\)\).*not give 3 samples as many values",
        ),
        (
            Constant(),
            r"fixed by cat .*torch\.cat\(\[start, x\], 1\).*, which reads zeros .*line \d+: start = torch",
        ),
    ],
    ids=["gram", "constant"],
)
def test_what_fixes_the_batch_is_named(model: nn.Module, text: str) -> None:
    with pytest.raises(CaptureError, match=text):
        capture(model.eval(), torch.randn(2, 4))


# --- what cannot be captured --------------------------------------------------------------------------------


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.calls


REFUSED = {
    "training": (
        mlp().train(),
        torch.randn(2, 4),
        r"training mode \(\(the model\), 0, 1…\); call model\.eval\(\)",
    ),
    "shape": (mlp(), torch.randn(2, 7), r"refuses the example inputs of shape \(2, 7\): RuntimeError"),
    "dtype": (mlp(), torch.randint(9, (2, 4)), r"refuses the example inputs.*check the shape, the dtype"),
    "two_for_one": (mlp(), (torch.randn(2, 4),) * 2, r"of shape \(2, 4\), \(2, 4\): TypeError"),
    "fixed_batch": (OneForEach().eval(), torch.randn(2, 4), r"fixes its batch size at 2"),
    "buffer": (Counting().eval(), torch.randn(2, 4), r"changes its own buffers when it runs \(calls\)"),
}


@pytest.mark.parametrize(("model", "example", "text"), REFUSED.values(), ids=REFUSED)
def test_refused(model: nn.Module, example: Tensor, text: str) -> None:
    with pytest.raises(CaptureError, match=text):
        capture(model, example)


def test_a_single_layer_in_training_mode_is_named() -> None:
    model = mlp()
    model[1].train()
    with pytest.raises(CaptureError, match=r"training mode \(1\)"):
        capture(model, torch.randn(2, 4))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float) -> None:
    model = mlp()
    with torch.no_grad():
        model[2].weight[1, 2:4] = value
    with pytest.raises(CaptureError, match=r"2\.weight of shape \(3, 6\) holds 2 NaN or infinite values"):
        capture(model, torch.randn(2, 4))


@pytest.mark.parametrize("architecture", UNCAPTURABLE, ids=lambda a: a.name)
def test_control_flow_that_depends_on_data(architecture, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        CaptureError, match=r"cannot capture DataDependent: .*Control flow that depends on tensor value"
    ):
        capture(architecture.build(), architecture.example())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("example", "text"),
    [
        (None, "example_inputs is needed"),
        ((), "example_inputs holds no tensor"),
        ({}, "example_inputs holds no tensor"),
        (torch.tensor(1.0), r"shape \(\): axis 0 must be a batch of at least one"),
        (torch.randn(0, 4), r"shape \(0, 4\): axis 0 must be a batch of at least one"),
    ],
    ids=["none", "empty_tuple", "empty_dict", "scalar", "empty_batch"],
)
def test_no_example_inputs(example: object, text: str) -> None:
    with pytest.raises(InputError, match=text):
        capture(mlp(), example)


def test_names_of_several_lines_are_refused() -> None:
    model = nn.Sequential()
    model.add_module("a\nb", nn.Linear(2, 2))
    with pytest.raises(CaptureError, match=r"named 'a\\nb'"):
        capture(model.eval(), torch.rand(2, 2))
