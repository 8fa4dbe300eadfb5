"""Shrinking: every architecture, cut at random, computes what its masked original does, and is really
smaller.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from architectures import ARCHITECTURES, conv_bn_relu, pooled_head
from helpers import batch_of, coupled, cut, doubled, outputs, same_bits, snapshot
from secateur.compensate import merged
from secateur.cost import macs_after, parameters_after
from secateur.errors import VerificationError
from secateur.graph.capture import capture
from secateur.graph.coupling import Coupling, couple
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.graph.widths import not_widths
from secateur.surgery import shrink
from secateur.types import Group, Removal, Slot

# Architectures whose own class cannot follow its smaller weights: they come out as a graph.
BECOME_GRAPHS = {
    "cnn_baked_sizes": "view(-1, 64)",
    "channel_slice": "x[:, :5]",
    "attention_fused": "the head width is the outer width over the head count",
    "layer_scale": "as attention_fused",
    "vision_transformer": "as attention_fused",
    "attention_grouped_query": "the attribute `shared` is no known name of a head count",
    "tied_embedding": "as attention_grouped_query",
    "attention_fixed_heads": "sizes are numbers in forward",
    "multihead_weights": "nn.MultiheadAttention keeps embed_dim equal to heads × head width",
    "multihead_no_weights": "as multihead_weights",
    "encoder_layer_pre_norm": "as multihead_weights",
    "encoder_layer_post_norm": "as multihead_weights",
}

EVERY = pytest.mark.parametrize("name", sorted(ARCHITECTURES))


class Cut:
    """One architecture with random merges in every prunable group."""

    def __init__(self, name: str) -> None:
        self.graph, self.coupling = coupled(name)
        self.original = ARCHITECTURES[name].build()
        self.run = cut(self.graph, self.coupling)
        self.before = snapshot(self.original)
        self.model = shrink(self.original, self.graph, self.coupling, self.run.weights, self.run.alive)

    def masked(self) -> dict[str, Tensor]:
        """The masked weights as the result holds them: rounded to the model's precision."""
        types = {name: tensor.dtype for name, tensor in self.graph.tensors.items()}
        return {name: w.to(types[name]).to(w.dtype) for name, w in self.run.weights.items()}


@cache
def shrunk(name: str) -> Cut:
    return Cut(name)


def in_double(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


@pytest.mark.slow
@EVERY
def test_computes_what_the_masked_original_does(name: str) -> None:
    """In float64 and for any batch size, by our own run of the graph, not by surgery's check of itself."""
    case = shrunk(name)
    model = in_double(case.model)
    for batch in (1, 3):
        inputs = doubled(batch_of(case.graph.example, batch))
        wanted = run(case.graph, inputs, case.masked(), dtype=torch.float64)
        for mine, reference in zip(outputs(model, inputs), wanted, strict=True):
            torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.sweep
@EVERY
def test_removed_units_have_no_effect_on_the_masked_original(name: str) -> None:
    """Whatever makes a removed unit, the outputs stay: nothing hides in a unit that goes."""
    case = shrunk(name)
    generator = torch.Generator().manual_seed(2)
    noisy = {n: w.clone() for n, w in case.run.weights.items()}
    for group in case.coupling.prunable:
        gone = ~case.run.alive[group.name]
        for slot in group.having("producer"):
            index = slot.positions[gone].reshape(-1)
            rows = noisy[slot.tensor].index_select(slot.axis, index)
            noise = torch.randn(rows.shape, generator=generator, dtype=torch.float64)
            noisy[slot.tensor].index_copy_(slot.axis, index, noise)
    inputs = doubled(case.graph.example)
    pairs = zip(run(case.graph, inputs, case.run.weights), run(case.graph, inputs, noisy), strict=True)
    for reference, mine in pairs:
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.sweep
@EVERY
def test_in_its_own_precision(name: str) -> None:
    case = shrunk(name)
    inputs = batch_of(case.graph.example, 3)
    half = next(case.original.parameters()).dtype in (torch.float16, torch.bfloat16)
    tolerance = 5e-2 if half else 1e-4
    wanted = run(case.graph, inputs, case.run.weights, dtype=torch.float64)
    for mine, reference in zip(outputs(case.model, inputs), wanted, strict=True):
        torch.testing.assert_close(mine.double(), reference, rtol=tolerance, atol=tolerance)


@pytest.mark.sweep
@EVERY
def test_fewer_parameters(name: str) -> None:
    case = shrunk(name)
    assert sum(p.numel() for p in case.model.parameters()) < sum(
        p.numel() for p in case.original.parameters()
    )


@pytest.mark.sweep
@EVERY
def test_keeps_its_class_unless_sizes_are_baked_in(name: str) -> None:
    case = shrunk(name)
    if name in BECOME_GRAPHS:
        assert isinstance(case.model, torch.fx.GraphModule)
    else:
        assert type(case.model) is type(case.original)
        assert case.model.state_dict().keys() == case.original.state_dict().keys()


@pytest.mark.sweep
@EVERY
def test_is_in_eval_mode(name: str) -> None:
    assert not [n for n, module in shrunk(name).model.named_modules() if module.training]


def sizes(module: nn.Module) -> Iterator[tuple[object, object]]:
    """(attribute, what the weights say) for layers that keep their sizes as attributes."""
    match module:
        case nn.Linear():
            yield (module.out_features, module.in_features), module.weight.shape
        case nn.modules.conv._ConvNd():
            made, read = (1, 0) if module.transposed else (0, 1)
            factor = (module.groups, 1) if module.transposed else (1, module.groups)
            yield module.out_channels, module.weight.shape[made] * factor[0]
            yield module.in_channels, module.weight.shape[read] * factor[1]
        case nn.modules.batchnorm._NormBase() if module.weight is not None:
            yield (module.num_features,), module.weight.shape
            yield module.weight.shape, module.bias.shape
        case nn.GroupNorm():
            yield (module.num_channels,), module.weight.shape
            yield module.num_channels % module.num_groups, 0
        case nn.Embedding():
            yield (module.num_embeddings, module.embedding_dim), module.weight.shape
        case nn.PReLU():
            yield (module.num_parameters,), module.weight.shape


@pytest.mark.sweep
@EVERY
def test_attributes_follow_the_weights(name: str) -> None:
    for path, module in shrunk(name).model.named_modules():
        for attribute, wanted in sizes(module):
            assert attribute == wanted, path


@pytest.mark.slow
def test_depthwise_and_norm_groups_follow() -> None:
    model = shrunk("mobilenet").model.get_submodule("3.layers.3")
    assert model.groups == model.in_channels == model.out_channels == len(model.weight) < 18
    norm = shrunk("cnn_group_norm").model[1]
    assert (norm.num_groups, norm.num_channels) == (1, 4)


def test_head_counts_follow() -> None:
    attention = shrunk("attention_attributes").model.body.attn
    assert (attention.num_heads, attention.head_dim, attention.all_head_size) == (2, 5, 10)


@pytest.mark.sweep
@EVERY
def test_original_is_left_alone(name: str) -> None:
    """Bit for bit, and no memory is shared with the result."""
    case = shrunk(name)
    assert same_bits(case.before, snapshot(case.original))
    memory = {t.untyped_storage().data_ptr() for t in [*case.original.parameters(), *case.original.buffers()]}
    mine = {t.untyped_storage().data_ptr() for t in [*case.model.parameters(), *case.model.buffers()]}
    assert not memory & mine
    captured = {t.untyped_storage().data_ptr() for t in case.graph.tensors.values()}
    assert not captured & mine


@pytest.mark.sweep
@EVERY
def test_precision_and_gradients_are_kept(name: str) -> None:
    case = shrunk(name)
    before, after = (
        {n: (p.dtype, p.requires_grad) for n, p in model.named_parameters(remove_duplicate=False)}
        for model in (case.original, case.model)
    )
    assert after.items() <= before.items() if name in BECOME_GRAPHS else after == before


def test_frozen_parameters_stay_frozen() -> None:
    model = ARCHITECTURES["cnn_baked_sizes"].build()
    model.conv1.weight.requires_grad_(False)
    graph = capture(model, ARCHITECTURES["cnn_baked_sizes"].example())
    coupling = couple(graph)
    state = cut(graph, coupling)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    assert not small.conv1.weight.requires_grad and small.conv2.weight.requires_grad


def test_tied_layer_is_one_layer() -> None:
    model = shrunk("tied_linear").model
    assert model.shared.weight.shape == (7, 7)
    assert len(list(model.parameters())) == 6


def test_tied_parameters_stay_tied() -> None:
    """Two layers on one weight: the columns that read the model's input must stay, the rows go from both."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(5, 9, bias=False), nn.Linear(5, 9, bias=False)
            self.between, self.head = nn.Linear(9, 5), nn.Linear(9, 3)
            self.decode.weight = self.encode.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.decode(self.between(self.encode(x).relu())).relu())

    model = Tied().eval()
    graph = capture(model, torch.randn(2, 5))
    coupling = couple(graph)
    assert [group.units for group in coupling.prunable] == [9]  # not the 5 of `between`, read by columns of x
    state = cut(graph, coupling)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    assert isinstance(small, Tied) and small.decode.weight is small.encode.weight
    assert small.decode.out_features == small.encode.out_features == 5


def test_tied_buffers_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm1, self.second = nn.Linear(5, 9), nn.BatchNorm1d(9), nn.Linear(9, 3)
            self.norm2 = nn.BatchNorm1d(9)
            self.norm2.running_mean = self.norm1.running_mean

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.norm2(self.norm1(self.first(x)).relu()))

    model = Tied().eval()
    graph = capture(model, torch.randn(2, 5))
    coupling = couple(graph)
    state = cut(graph, coupling)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    assert small.norm1.running_mean is small.norm2.running_mean


def measured_macs(model: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        outputs(model, inputs)
    return counter.get_total_flops() // 2


@pytest.mark.sweep
@EVERY
def test_predicted_cost_is_the_cost(name: str) -> None:
    """Parameters as they are, MACs as torch counts them when the model runs (it does not count LSTMs)."""
    case = shrunk(name)
    parameters = parameters_after(case.graph, case.coupling, case.run.alive)
    assert parameters == sum(p.numel() for p in case.model.parameters())
    if name != "lstm":
        inputs = batch_of(case.graph.example, 1)
        assert macs_after(case.graph, case.coupling, case.run.alive) == measured_macs(case.model, inputs)
        assert macs_after(case.graph, case.coupling, {}) == measured_macs(case.original, inputs)


class Products(nn.Module):
    """Products in every order of weight and value."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v, self.u = (nn.Parameter(torch.randn(*shape)) for shape in ((6, 9), (9, 4), (4, 7)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.v.t() @ (self.w.t() @ x).relu()  # shape: (batch, 4, columns)
        return torch.einsum("bic,ji->bjc", x.relu(), self.u.t())


class Gram(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x).relu())
        return y @ y


@pytest.mark.parametrize(
    ("model", "shape"),
    [(Products(), (6, 5)), (Gram(), (3, 5))],
    ids=["weights_on_either_side", "one_value_twice"],
)
def test_cost_of_products(model: nn.Module, shape: tuple[int, ...]) -> None:
    graph = capture(model.eval(), torch.randn(2, *shape))
    coupling = couple(graph)
    assert macs_after(graph, coupling, {}) == measured_macs(model, (torch.randn(1, *shape),))
    state = cut(graph, coupling)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    assert macs_after(graph, coupling, state.alive) == measured_macs(small, (torch.randn(1, *shape),))


EXPORTED = [
    "resnet_basic",
    "cnn_baked_sizes",
    "attention_fused",
    "multihead_no_weights",
    "two_inputs",
    "channel_slice",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_result_can_be_exported(name: str) -> None:
    case = shrunk(name)
    inputs = batch_of(case.graph.example, 2)
    free = tuple({0: Dim.AUTO} for _ in inputs)
    program = export(case.model, inputs, dynamic_shapes=free)
    more = batch_of(case.graph.example, 5)
    for mine, wanted in zip(outputs(program.module(), more), outputs(case.model, more), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_result_can_be_pruned_again(name: str) -> None:
    case = shrunk(name)
    graph = capture(case.model, case.graph.example)
    coupling = couple(graph)
    state = cut(graph, coupling, share=0.2)
    smaller = shrink(case.model, graph, coupling, state.weights, state.alive)
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in case.model.parameters())


@pytest.mark.parametrize(
    "name", ["mlp_relu", "resnet_basic", "densenet", "attention_grouped_query", "unet_transposed"]
)
def test_one_unit_is_the_floor(name: str) -> None:
    graph, coupling = coupled(name)
    state = cut(graph, coupling, share=1.0)
    assert all(int(state.alive[group.name].sum()) == 1 for group in not_widths(coupling.prunable))
    small = shrink(ARCHITECTURES[name].build(), graph, coupling, state.weights, state.alive)
    inputs = batch_of(graph.example, 3)
    for mine, wanted in zip(outputs(small, inputs), run(graph, inputs, state.weights), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp_relu", "cnn_baked_sizes", "two_inputs"])
def test_exported_program_gives_a_graph(name: str) -> None:
    graph, coupling = coupled(name)
    state = cut(graph, coupling)
    small = shrink(None, graph, coupling, state.weights, state.alive)
    assert isinstance(small, torch.fx.GraphModule)
    inputs = batch_of(graph.example, 4)
    for mine, wanted in zip(outputs(small, inputs), run(graph, inputs, state.weights), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


# --- the check on the result --------------------------------------------------------------------------------


def small_net() -> tuple[nn.Module, Graph, Coupling]:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    graph = capture(model, torch.randn(2, 4))
    return model, graph, couple(graph)


def test_a_unit_that_still_has_an_effect_is_refused() -> None:
    """The consumer's column is not zeroed: what the removed unit did would be lost in silence."""
    model, graph, coupling = small_net()
    graph.tensors["0.bias"][5] = 9.0  # alive on every input
    alive = {"0": torch.tensor([True] * 5 + [False])}
    with pytest.raises(VerificationError, match=r"output 0 of the shrunk model, shape \(32, 3\), differs by"):
        shrink(model, graph, coupling, {n: t.double() for n, t in graph.tensors.items()}, alive)


def test_a_class_that_cannot_be_copied_gives_a_graph() -> None:
    model, graph, coupling = small_net()
    model.lock = (i for i in ())  # generators refuse deepcopy
    state = cut(graph, coupling)
    assert isinstance(shrink(model, graph, coupling, state.weights, state.alive), torch.fx.GraphModule)


def test_instance_norm_without_parameters_follows() -> None:
    """It keeps its number of features as an attribute alone, and warns where that is wrong."""
    norm = nn.InstanceNorm2d(8)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), norm, conv_bn_relu(8, 6), pooled_head(6)).eval()
    graph = capture(model, torch.randn(2, 3, 8, 8))
    coupling = couple(graph)
    state = cut(graph, coupling)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    assert isinstance(small, nn.Sequential) and small[1].num_features == small[0].out_channels == 5


def test_constants_made_in_forward_follow() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.log_scale = (
                nn.Linear(4, 6),
                nn.Linear(6, 3),
                nn.Parameter(torch.tensor(0.2)),
            )

        def forward(self, x: Tensor) -> Tensor:
            shift = torch.tensor([1.0, 2.0, 3.0])
            return self.second(self.first(x).relu()) * self.log_scale.exp() + shift

    model = Scaled().eval()
    graph = capture(model, torch.randn(2, 4))
    coupling = couple(graph)
    state = cut(graph, coupling)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    inputs = (torch.randn(3, 4),)
    assert isinstance(small, Scaled)
    torch.testing.assert_close(
        outputs(small, inputs)[0], run(graph, inputs, state.weights)[0], rtol=1e-4, atol=1e-4
    )


def test_parts_of_a_bare_parameter_follow() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(4, 8), nn.Linear(14, 3)
            self.bias = nn.Parameter(torch.randn(14))

        def forward(self, x: Tensor) -> Tensor:
            left, right = self.bias.split([6, 8])
            return self.last(torch.cat([self.first(x) + left, self.second(x) + right], 1).relu())

    model = Biased().eval()
    graph = capture(model, torch.randn(2, 4))
    coupling = couple(graph)
    state = cut(graph, coupling)
    small = shrink(model, graph, coupling, state.weights, state.alive)
    inputs = (torch.randn(3, 4),)
    torch.testing.assert_close(
        outputs(small, inputs)[0], run(graph, inputs, state.weights)[0], rtol=1e-4, atol=1e-4
    )
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


# --- merging ------------------------------------------------------------------------------------------------


def test_merge_by_hand() -> None:
    group = Group(
        "a", 3, (Slot("a", 0, torch.arange(3)[:, None], "producer"), consumer(torch.arange(3)[:, None]))
    )
    weight = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]])
    tensors = {"a": torch.zeros(3, 2), "next": weight}
    found = merged(tensors, group, Removal("a", torch.tensor([0, 2]), torch.tensor([1, -1])))
    assert found.keys() == {"next"}
    assert found["next"].tolist() == [[0.0, 3.0, 0.0], [0.0, 24.0, 0.0]]
    assert weight.tolist() == [[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]


def test_two_units_into_one_add_up() -> None:
    group = Group("a", 3, (consumer(torch.arange(3)[:, None]),))
    tensors = {"next": torch.tensor([[1.0, 2.0, 4.0]])}
    found = merged(tensors, group, Removal("a", torch.tensor([0, 1]), torch.tensor([2, 2])))
    assert found["next"].tolist() == [[0.0, 0.0, 7.0]]


def test_flattened_maps_merge_position_by_position() -> None:
    group = Group("a", 2, (consumer(torch.arange(4).reshape(2, 2)),))
    tensors = {"next": torch.tensor([[1.0, 2.0, 4.0, 8.0]])}
    found = merged(tensors, group, Removal("a", torch.tensor([0]), torch.tensor([1])))
    assert found["next"].tolist() == [[0.0, 0.0, 5.0, 10.0]]


def consumer(positions: Tensor) -> Slot:
    return Slot("next", 1, positions, "consumer")
