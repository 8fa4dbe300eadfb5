"""One meaning of "decision" in evaluate, the guard, certificates and surrogates; nothing certain is wrong."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typer.testing import CliRunner

import secateur
from secateur.bounds.box import input_box
from secateur.bounds.certified import Certified, ball
from secateur.bounds.joint import Networks
from secateur.certify import Certificate, certify
from secateur.certify.vnnlib import write_claim
from secateur.cli import app
from secateur.decisions import Decision, Head, NoDecision, before_head, decide_on, decision_of, same
from secateur.errors import InputError
from secateur.evaluate.attacks.fgsm import FGSM
from secateur.evaluate.measure import evaluate
from secateur.graph.capture import capture
from secateur.graph.graph import Graph
from secateur.graph.interpret import run
from secateur.surrogates import Source
from secateur.surrogates.forward import as_log_probabilities, classes
from secateur.types import Interval

UNITS, KEPT = 10, 5


class Net(nn.Module):
    """Two layers with random weights and a head; the layers of `Net(…, KEPT)` are those of `Net(…)` less
    units.
    """

    def __init__(
        self, head: Callable[[Tensor], Any], outputs: int, units: int = UNITS, size: float = 1.0
    ) -> None:
        super().__init__()
        self.head = head
        self.first, self.last = nn.Linear(4, units), nn.Linear(units, outputs)
        generator = torch.Generator().manual_seed(outputs)
        w, v = (torch.randn(*s, generator=generator) for s in ((UNITS, 4), (outputs, UNITS)))
        with torch.no_grad():
            self.first.weight.copy_(w[:units])
            self.first.bias.copy_(-0.4 * w.sum(1)[:units])
            self.last.weight.copy_(size * v[:, :units])
            self.last.bias.copy_(-size * v.sum(1) * 0.3)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        return self.head(self.last(torch.relu(self.first(x))))


class Maps(Net):
    """The same for images: convolutions, and outputs of the images' size."""

    def __init__(self, head: Callable[[Tensor], Any], outputs: int, units: int = UNITS) -> None:
        super().__init__(head, outputs, units)
        weights = [layer.weight.detach()[:, :, None, None] for layer in (self.first, self.last)]
        self.convolutions = nn.ParameterList(weights)
        self.eval()

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(F.conv2d(x, self.convolutions[0], self.first.bias))
        return self.head(F.conv2d(x, self.convolutions[1], self.last.bias))


def sign(y: Tensor) -> Tensor:
    return (y > 0).long()


def half(y: Tensor) -> Tensor:
    return (y > 0.5).long()


def greatest(y: Tensor) -> Tensor:
    return y.argmax(1)


Case = tuple[
    int, Callable[[Tensor], Any], Head, Callable[[Tensor], Tensor]
]  # outputs, head, its name, what it decides

ONE: dict[str, Case] = {
    "logit": (1, lambda z: z, "binary_logit", sign),
    "flat logit": (1, lambda z: z[:, 0], "binary_logit", sign),
    "sigmoid": (1, torch.sigmoid, "binary_probability", half),
    "squeezed sigmoid": (1, lambda z: z.sigmoid().squeeze(1), "binary_probability", half),
    "sigmoid without axes": (1, lambda z: z.sigmoid().squeeze(), "binary_probability", half),
    "flattened sigmoid": (1, lambda z: z.sigmoid().flatten(), "binary_probability", half),
    "hardsigmoid": (1, F.hardsigmoid, "binary_probability", half),
    "clamped sigmoid": (1, lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6), "binary_probability", half),
    "half-precision sigmoid": (1, lambda z: z.sigmoid().half().float(), "binary_probability", half),
    "tanh": (1, torch.tanh, "binary_logit", sign),
    "scaled tanh": (1, lambda z: 5 * z.tanh(), "binary_logit", sign),
}
TURNED: dict[str, Case] = {
    "1 − sigmoid": (1, lambda z: 1 - z.sigmoid(), "binary_probability", half),
    "negative": (1, lambda z: -z, "binary_logit", sign),
}
OF_TWO: dict[str, Case] = {
    "p of class 1": (2, lambda z: z.softmax(1)[:, 1], "binary_probability", half),
    "p of class 0": (2, lambda z: 1 - z.softmax(1)[:, 1], "binary_probability", half),
}
MANY: dict[str, Case] = {
    "logits": (3, lambda z: z, "logits", greatest),
    "softmax": (3, lambda z: z.softmax(-1), "probabilities", greatest),
    "log-softmax": (3, lambda z: z.log_softmax(1), "logits", greatest),
    "log of softmax": (3, lambda z: z.softmax(1).log(), "logits", greatest),
    "temperature": (3, lambda z: (z / 2.5).softmax(1), "probabilities", greatest),
    "many tanh": (3, torch.tanh, "logits", greatest),
    "1×1 map": (
        3,
        lambda z: z.softmax(1)[:, :, None, None],
        "probabilities",
        lambda y: y[:, :, 0, 0].argmax(1),
    ),
    "in a dict": (3, lambda z: {"scores": z}, "logits", lambda y: y.argmax(1)),
    "logits and softmax": (3, lambda z: (z.softmax(1), z), "probabilities", greatest),
}
LABELS: dict[str, Case] = {
    "two sigmoids": (2, torch.sigmoid, "multi_label", half),
    "turned sigmoids": (2, lambda z: 1 - z.sigmoid(), "multi_label", half),
    "swapped sigmoids": (3, lambda z: z.sigmoid().flip(1), "multi_label", half),
    "sigmoids side by side": (1, lambda z: torch.cat([1 - z.sigmoid(), z.sigmoid()], 1), "multi_label", half),
}
LOOSE: dict[str, Case] = {  # known, but read from the output itself
    "one of three": (3, lambda z: z.softmax(1)[:, 1], "binary_probability", half),
    "mean of sigmoids": (3, lambda z: z.sigmoid().mean(1), "binary_probability", half),
    "mean of softmaxes": (3, lambda z: (z.softmax(1) + (2 * z).softmax(1)) / 2, "logits", greatest),
}
UNBOUNDED: dict[str, Case] = {  # no interval rule, so no certificate
    "rounded sigmoid": (1, lambda z: z.sigmoid().round(), "binary_probability", half),
    "hard decision": (1, lambda z: (z > 0).float(), "binary_probability", half),
}
DENSE: dict[str, Case] = {
    "softmax of pixels": (3, lambda z: z.softmax(1), "probabilities", greatest),
    "channels last": (3, lambda z: z.softmax(1).permute(0, 2, 3, 1), "probabilities", lambda y: y.argmax(3)),
    "masks": (2, torch.sigmoid, "multi_label", half),
    "one mask": (1, lambda z: z.sigmoid().squeeze(1), "multi_label", half),
}
KNOWN = ONE | TURNED | OF_TWO | MANY | LABELS | LOOSE | DENSE | UNBOUNDED

UNKNOWN: dict[str, tuple[int, Callable[[Tensor], Any]]] = {
    "scaled sigmoid": (1, lambda z: 5 * z.sigmoid()),
    "scaled sigmoids": (2, lambda z: z.sigmoid() * 5),
    "shifted tanh": (1, lambda z: 3 + 2 * z.tanh()),
    "(tanh + 1)/2": (1, lambda z: (z.tanh() + 1) / 2),
    "expected age": (3, lambda z: (z.softmax(1) * torch.arange(3.0)).sum(1)),
    "expected age, as a layer": (3, lambda z: F.linear(z.softmax(1), torch.tensor([[10.0, 20.0, 30.0]]))),
    "square": (1, lambda z: z * z),
    "never negative": (1, torch.relu),
    "clamped": (2, lambda z: z.clamp(0, 1)),
    "rates": (2, torch.exp),
    "sigmoids by hand": (2, lambda z: 1 / (1 + torch.exp(-z))),
    "one of an ensemble": (2, lambda z: (z.softmax(1) + (2 * z).softmax(1))[:, 1]),
    "log-sigmoid": (1, F.logsigmoid),
    "product of sigmoids": (2, lambda z: z[:, :1].sigmoid() * z[:, 1:].sigmoid()),
    "two outputs": (3, lambda z: (z, 2 * z)),
    "whole numbers": (3, lambda z: z.argmax(1)),
}


def example(name: str) -> Tensor:
    shape = (4, 2, 2) if name in DENSE else (4,)
    return torch.rand(12, *shape, generator=torch.Generator().manual_seed(1))


def network(name: str, units: int = UNITS) -> nn.Module:
    outputs, head = KNOWN[name][:2] if name in KNOWN else UNKNOWN[name]
    return (Maps if name in DENSE else Net)(head, outputs, units)


@cache
def graph_of(name: str) -> Graph:
    return capture(network(name), example(name)[:2])


def found(name: str, head: Head = "auto") -> Decision:
    decision = decision_of(graph_of(name), head)
    assert isinstance(decision, Decision), decision
    return decision


# --- the head is found --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_a_head_decides_what_it_says(name: str) -> None:
    """By the oracle on the outputs, read from them and before the head."""
    _, _, head, decides = KNOWN[name]
    graph, decision = graph_of(name), found(name)
    assert decision.head == head
    x = torch.rand(
        50, *graph.example[0].shape[1:], generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    wanted = decides(run(graph, [x])[0]).reshape(50, -1)
    assert len(wanted.unique()) > 1 or name == "sigmoids side by side"
    for reading in (decision, before_head(graph, decision)):
        assert torch.equal(decide_on(graph, reading, [x]).reshape(50, -1), wanted)
    read = before_head(graph, decision).node
    assert (read.name in ("linear_1", "conv2d_1")) == (
        name not in LOOSE | UNBOUNDED | {"sigmoids side by side": 0, "temperature": 0}
    )


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_no_threshold_is_known_nothing_is_decided(name: str) -> None:
    decision = decision_of(graph_of(name))
    assert isinstance(decision, NoDecision) and decision.why


@pytest.mark.parametrize(
    ("name", "head", "wanted"),
    [
        ("logits", "multi_label", "multi_label_logits"),
        ("two sigmoids", "probabilities", "probabilities"),
        ("sigmoid", "multi_label", "multi_label"),
        ("softmax", "logits", "logits"),
        ("masks", "probabilities", "probabilities"),
    ],
)
def test_a_head_that_is_given(name: str, head: Head, wanted: str) -> None:
    assert found(name, head).head == wanted


@pytest.mark.parametrize(
    ("name", "head", "said"),
    [
        ("logits", "sigmoid", "head='sigmoid': choose one of auto, logits"),
        ("logits", "binary_logit", "head='binary_logit' does not fit a model with 3 outputs"),
        ("sigmoid", "probabilities", "head='probabilities' does not fit a model with 1 outputs"),
        ("sigmoid", "binary_logit", "ends in probabilities, which are never below 0"),
        ("two sigmoids", "multi_label_logits", "ends in probabilities"),
    ],
)
def test_a_head_that_does_not_fit(name: str, head: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        decision_of(graph_of(name), head)


def test_a_regression_is_said_and_no_decision() -> None:
    assert decision_of(graph_of("logit"), "none") == NoDecision("the head was given as none")


def test_a_given_head_reads_the_first_of_several_outputs() -> None:
    graph = capture(Net(lambda z: (z, z.exp()), 3), torch.rand(2, 4))
    decision = decision_of(graph, "logits")
    assert isinstance(decision, Decision) and decision.output == 0


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_tokens_and_maps_by_their_layer() -> None:
    """A linear layer makes classes along its last axis, wherever that goes; a convolution may make
    anything.
    """
    words = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 5)).eval()
    decision = decision_of(capture(words, torch.zeros(2, 3, dtype=torch.int64)))
    assert isinstance(decision, Decision) and decision.index.shape == (3, 5) and decision.label_shape == (3,)
    turned = decision_of(capture(nn.Sequential(words, Turned()).eval(), torch.zeros(2, 3, dtype=torch.int64)))
    assert (
        isinstance(turned, Decision)
        and turned.index.shape == (3, 5)
        and turned.index[1].tolist() == [1, 4, 7, 10, 13]
    )
    plain = capture(Maps(lambda z: z, 3), torch.rand(2, 4, 2, 2))
    assert isinstance(decision_of(plain), NoDecision)
    said = decision_of(plain, "logits")
    assert isinstance(said, Decision) and said.index.shape == (4, 3)


# --- ties, NaN and saturation -------------------------------------------------------------------------------


def test_a_nan_is_never_the_same() -> None:
    nan = torch.tensor([[float("nan")], [1.0]])
    decision = found("logit")
    assert decision.classes(nan).flatten().tolist() == [-1, 1]
    assert same(decision.classes(nan), decision.classes(nan)).flatten().tolist() == [False, True]
    many = found("logits").classes(torch.tensor([[0.0, float("nan"), 1.0], [0.0, 2.0, 2.0]]))
    assert many.flatten().tolist() == [-1, 1]


def test_margins_by_hand() -> None:
    three, y = found("logits"), torch.tensor([[1.0, 3.0, 2.5]])
    assert three.margins(y, torch.tensor([[[1]]])).tolist() == [[0.5]]
    assert three.margins(y, torch.tensor([[[2]]])).tolist() == [[-0.5]]
    labels = found("two sigmoids")
    assert labels.margins(torch.tensor([[0.9, 0.4]]), torch.tensor([[[1, 0]]])).item() == pytest.approx(0.1)


def test_scores_that_saturate_are_not_told_apart() -> None:
    """Logits of 20 and 30 are one tanh in float32: a certificate must not name a class."""
    x = example("logits")
    pairs = [
        [Net(head, 3, units, size=100.0) for units in (UNITS, KEPT)] for head in (torch.tanh, lambda z: z)
    ]
    saturated, plain = (certify(*pair, inputs=x, eps=0.0, attack_steps=0).stable_original for pair in pairs)
    assert saturated is not None and plain is not None
    assert saturated.certified == 0.0 and plain.certified == 1.0


# --- certificates -------------------------------------------------------------------------------------------


@cache
def certificate(
    name: str, eps: float, method: str = "linear", head: Head = "auto", steps: int = 0
) -> Certificate:
    pair = [network(name, units) for units in (UNITS, KEPT)]
    return certify(*pair, inputs=example(name), eps=eps, method=method, head=head, attack_steps=steps)


def shares(c: Certificate) -> list[float]:
    return [
        share.certified for share in (c.agreement, c.stable_original, c.stable_pruned) if share is not None
    ]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["linear", "interval"])
def test_a_certificate_through_a_sigmoid_is_that_on_its_logit(method: str) -> None:
    plain = certificate("logit", 0.03, method)
    for name in ("sigmoid", "1 − sigmoid"):
        with_head = certificate(name, 0.03, method)
        assert shares(with_head) == shares(plain) and with_head.head == "binary_probability"
    assert 0 < shares(plain)[1] <= 1 and len(shares(plain)) == 3


@pytest.mark.slow
def test_what_is_certified_is_also_found() -> None:
    for name in ("sigmoid", "softmax", "two sigmoids"):
        c = certificate(name, 0.05, steps=8)
        for share in (c.agreement, c.stable_original, c.stable_pruned):
            assert (
                share is not None and share.empirical is not None and share.certified <= share.empirical < 1
            )


@pytest.mark.slow
def test_a_batch_of_one_that_loses_its_axis() -> None:
    given: dict[str, Any] = {"inputs": example("logit")[:1], "eps": 0.02}
    for head in (lambda z: z.sigmoid().squeeze(), lambda z: z.squeeze().sigmoid()):
        pair = [Net(head, 1, units) for units in (UNITS, KEPT)]
        c = certify(*pair, **given, attack_steps=3)
        assert c.head == "binary_probability" and len(c.lower[0]) == 1 and c.found is not None
        assert c.found[0] <= c.drift[0]


def test_labels_are_certified_on_their_logits() -> None:
    pair = [Net(lambda z: z, 2, units) for units in (UNITS, KEPT)]
    plain = certify(*pair, inputs=example("logits"), eps=0.02, head="multi_label", attack_steps=0)
    assert plain.head == "multi_label_logits"
    assert shares(certificate("two sigmoids", 0.02)) == shares(plain)


@cache
def bounds_of(name: str, eps: float) -> tuple[Certified, Interval, dict[str, Tensor]]:
    """Bounds on the network and on the one less units, round the example; the balls; the other's tensors."""
    graph = graph_of(name)
    last = next(n for n in graph.tensors if n in ("last.weight", "convolutions.1"))
    masked = {**graph.tensors, last: graph.tensors[last].clone()}
    masked[last][:, KEPT:] = 0
    (whole,) = input_box(graph, (0.0, 1.0))
    box = ball(example(name), eps, whole)
    networks = Networks.of(graph, graph.tensors, masked, torch.zeros(0, dtype=torch.float64))
    return Certified.of(networks, [Interval(box.lower[:, None], box.upper[:, None])]), box, masked


@pytest.mark.parametrize("name", sorted(KNOWN.keys() - UNBOUNDED.keys()))
def test_no_point_violates_a_certified_decision(name: str) -> None:
    """By the oracle on the outputs of both networks, in float64, at corners and in between."""
    graph, x, decides, certain_at_all = graph_of(name), example(name).double(), KNOWN[name][3], 0
    decision = before_head(graph, found(name))
    for eps in (0.0, 0.02):
        engine, box, masked = bounds_of(name, eps)
        for second, tensors in enumerate((graph.tensors, masked)):
            centre = decide_on(graph, decision, [x], tensors)
            certain = engine.stands(decision, centre, bool(second))
            generator = torch.Generator().manual_seed(3)
            for corner in (False, True) * 10:
                share = torch.rand(x.shape, generator=generator, dtype=torch.float64)
                point = box.lower + (share.round() if corner else share) * (box.upper - box.lower)
                here = decides(run(graph, [point], tensors)[0]).reshape(centre.shape)
                assert bool(((here == centre).all(-1) | ~certain).all())
            certain_at_all += int(certain.sum())
    assert certain_at_all > 0


@pytest.mark.parametrize("name", sorted((ONE | TURNED | MANY).keys() - {"temperature"}))
def test_margins_before_a_head_are_those_of_its_logits(name: str) -> None:
    plain = "logits" if name in MANY else "logit"
    margins = []
    for case in (name, plain):
        graph, (engine, _, _) = graph_of(case), bounds_of(case, 0.02)
        decision = before_head(graph, found(case))
        margins.append(engine.margins(decision, decide_on(graph, decision, [example(case).double()]), False))
    torch.testing.assert_close(margins[0], margins[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["scaled sigmoid", "shifted tanh", "two outputs"])
def test_without_decisions_a_certificate_is_about_drift_alone(name: str) -> None:
    c = certificate(name, 0.02)
    assert (c.head, c.agreement, c.stable_original, c.stable_pruned) == ("none", None, None, None)
    assert c.undecided and max(c.drift) > 0


def test_a_regression_is_certified_by_its_drift() -> None:
    said, assumed = certificate("logit", 0.02, head="none"), certificate("logit", 0.02)
    assert said.lower == assumed.lower and said.upper == assumed.upper
    assert said.agreement is None and assumed.agreement is not None and assumed.head == "binary_logit"


@pytest.mark.slow
def test_labels_for_every_head() -> None:
    """Classes, and several labels of each input; class numbers tell that several sigmoids stand for one
    class.
    """
    x, pair = example("logits"), [network("two sigmoids", units) for units in (UNITS, KEPT)]
    out = pair[0](x).detach()
    settings: dict[str, Any] = {"inputs": x, "eps": 0.0, "attack_steps": 0}
    by_label = certify(*pair, labels=half(out), **settings)
    by_class = certify(*pair, labels=out.argmax(1), **settings)
    assert by_label.head == "multi_label" and by_class.head == "probabilities"
    for c in (by_label, by_class):
        assert c.stable_original is not None and c.stable_original.certified == 1.0
    wrong = certify(*pair, labels=1 - half(out), **settings).stable_original
    assert wrong is not None and wrong.certified == 0.0
    with pytest.raises(InputError, match=r"takes whole numbers of shape \(inputs, 2\)"):
        certify(*pair, labels=torch.zeros(12, 3, dtype=torch.int64), **settings)
    with pytest.raises(InputError, match="the model decides nothing to compare them with"):
        certify(*pair, labels=half(out), head="none", **settings)


@pytest.mark.slow
def test_a_claim_for_verifiers_is_about_the_outputs(tmp_path: Path) -> None:
    """Of a sigmoid: drift of the probability; no decision is in it."""
    pytest.importorskip("onnxscript", reason="needs the extra onnx: pip install onnx onnxscript")
    pair, x = [network("sigmoid", units) for units in (UNITS, KEPT)], example("sigmoid")[:1]
    c = certify(*pair, inputs=x, eps=0.05, attack_steps=0)
    write_claim(tmp_path / "claim", *pair, (x,), c, x)
    text = (tmp_path / "claim.vnnlib").read_text()
    assert -1 <= c.lower[0][0] <= c.upper[0][0] <= 1
    bounds = [line.split()[-1].rstrip(")") for line in text.splitlines() if "Y_0" in line and "and" in line]
    assert [float(b) for b in bounds] == [c.lower[0][0], c.upper[0][0]] and "Y_1" not in text


# --- the guard ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["flat logit", "squeezed sigmoid", "softmax", "two sigmoids", "masks"])
def test_a_guard_holds_the_agreement_of_every_head(name: str) -> None:
    decides = KNOWN[name][3]
    model, shape = network(name), example(name).shape[1:]
    x = torch.rand(200, *shape, generator=torch.Generator().manual_seed(5))
    settings: dict[str, Any] = {"remove": 0.8, "method": "scale", "step": 0.1, "calibration": x}
    wanted = decides(model(x).detach()).reshape(200, -1)

    def agreement(result: secateur.Result) -> float:
        equal = decides(result.model(x).detach()).reshape(200, -1) == wanted
        return float((equal if name in DENSE else equal.all(1)).double().mean())

    free = secateur.prune(model, x[:2], **settings)
    budget = 0.5 + agreement(free) / 2
    guarded = secateur.prune(model, x[:2], guard={"agreement": budget}, **settings)
    assert (
        agreement(free) < budget <= agreement(guarded) and "agreement on samples fell to" in guarded.stopped
    )


@pytest.mark.slow
def test_a_certified_guard_on_a_sigmoid_is_that_on_its_logit() -> None:
    x = torch.rand(40, 4, generator=torch.Generator().manual_seed(5))
    settings: dict[str, Any] = {"remove": 0.8, "method": "scale", "step": 0.1, "calibration": x}
    guard = {"certified_agreement": 0.7, "eps": 0.02}
    ends = [secateur.prune(network(name), x[:2], guard=guard, **settings) for name in ("logit", "sigmoid")]
    assert ends[0].stopped == ends[1].stopped != ""
    c = certify(network("sigmoid"), ends[1].model, inputs=x, eps=0.02, attack_steps=0)
    assert c.agreement is not None and c.agreement.certified >= 0.7


def test_a_guard_without_decisions_asks_for_a_budget_on_the_drift() -> None:
    model, x = network("scaled sigmoid"), example("scaled sigmoid")
    for guard in ({"agreement": 0.9}, {"agreement": 0.9, "head": "none"}):
        with pytest.raises(
            InputError, match=r"the model decides nothing .*give a budget on the drift instead"
        ):
            secateur.prune(model, x[:2], guard=guard)
    result = secateur.prune(
        model, x[:2], method="scale", calibration=x, guard={"drift": 100.0, "head": "none"}
    )
    assert not result.stopped and result.recipe.request.guard == {"drift": 100.0, "head": "none"}
    said = secateur.prune(
        model, x[:2], method="scale", calibration=x, guard={"agreement": 0.0, "head": "binary_logit"}
    )
    assert not said.stopped
    with pytest.raises(InputError, match="give a budget, too: agreement"):
        secateur.prune(model, x[:2], guard={"head": "logits"})
    with pytest.raises(InputError, match="head='logit': choose one of"):
        secateur.prune(model, x[:2], guard={"drift": 1.0, "head": "logit"})


# --- evaluate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["logit", "flattened sigmoid", "1 − sigmoid", "p of class 1", "log of softmax"]
)
def test_evaluate_decides_the_same(name: str) -> None:
    _, _, head, decides = KNOWN[name]
    model, small, x = network(name), network(name, KEPT), example(name)
    wanted, other = (decides(m(x).detach()).reshape(-1) for m in (model, small))
    found_report = evaluate(small, x, wanted, original=model)
    assert found_report.head == head and found_report.original_accuracy == {1: 1.0}
    assert (
        found_report.agreement
        == found_report.accuracy[1]
        == pytest.approx(float((wanted == other).double().mean()))
    )


def test_evaluate_of_many_labels() -> None:
    model, small, x = network("two sigmoids"), network("two sigmoids", KEPT), example("logits")
    wanted, other = (half(m(x).detach()) for m in (model, small))
    report = evaluate(small, x, wanted, original=model)
    share = float((wanted == other).all(1).double().mean())
    assert report.head == "multi_label" and report.classes == () and 0 < share < 1
    assert report.accuracy == {1: pytest.approx(share)} and report.agreement == pytest.approx(share)
    plain = evaluate(Net(lambda z: z, 2, KEPT), x, wanted, head="multi_label")
    assert plain.head == "multi_label_logits" and plain.accuracy == report.accuracy
    assert evaluate(model, x, model(x).argmax(1)).head == "probabilities"  # labels of class numbers


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        (
            "scaled sigmoid",
            {},
            "decides nothing that could be measured .the last ops do not tell the threshold",
        ),
        ("logit", {"head": "none"}, "decides nothing that could be measured .the head was given as none"),
        ("logit", {"head": "linear"}, "head='linear': give auto, logits"),
        ("softmax", {"labels": torch.zeros(12, 3, dtype=torch.int64)}, "do not fit the head probabilities"),
        ("two sigmoids", {"labels": torch.full((12, 2), 2)}, "give a 0 or 1 for each of 2 outputs"),
        (
            "two sigmoids",
            {"labels": torch.zeros(12, 2).long(), "attacks": [FGSM(0.1)]},
            "attacks: they need one class",
        ),
        ("two sigmoids", {"labels": torch.zeros(12, 2).long(), "top_k": (2,)}, "top_k=2 does not fit"),
    ],
)
def test_what_evaluate_cannot_measure(name: str, options: dict[str, Any], said: str) -> None:
    given = {"labels": torch.zeros(12, dtype=torch.int64)} | options
    with pytest.raises(InputError, match=said):
        evaluate(network(name), example(name), given.pop("labels"), **given)


# --- surrogates, and the command line -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("logits", 3),
        ("softmax", 3),
        ("two sigmoids", 2),
        ("sigmoid", 0),
        ("scaled sigmoids", 2),
        ("masks", 0),
    ],
)
def test_surrogates_know_the_classes(name: str, wanted: int) -> None:
    x = example(name)
    graph = capture(network(name), x[:2])
    source = Source(graph, input_box(graph, (0.0, 1.0), dtype=torch.float32), torch.Generator())
    assert classes(source) == wanted
    if wanted:
        out = network(name)(x).detach()
        expected = out.log() if name in ("softmax", "two sigmoids") else out.log_softmax(1)
        torch.testing.assert_close(as_log_probabilities(source, out), expected)


FACTORY = """
import torch
from torch import nn

class Scaled(nn.Sequential):
    def forward(self, x):
        return 5 * super().forward(x).sigmoid()

def build():
    torch.manual_seed(0)
    return Scaled(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1))
"""


@pytest.mark.slow
def test_the_command_line_says_what_was_assumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scaled_net.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    command = (
        "certify",
        "scaled_net:build",
        "scaled_net:build",
        "--example-shape",
        "4",
        "--attack-steps",
        "0",
    )
    done = CliRunner().invoke(app, command)
    assert "no decision: it is not known how outputs that end in mul" in " ".join(done.output.split())
    assert CliRunner().invoke(app, (*command, "--head", "none", "--json")).output.count('"head": "none"') == 1
    refused = CliRunner().invoke(app, (*command, "--head", "maybe"))
    assert refused.exit_code == 2
    guarded = ("prune", "scaled_net:build", "--example-shape", "4", "--min-agreement", "0.9", "-o", "x.pt2")
    assert "give a budget on the drift instead" in str(CliRunner().invoke(app, guarded).exception)
