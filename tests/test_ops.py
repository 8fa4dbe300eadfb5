"""The facts of ops are true, every rule table takes its ops from them, and `secateur ops` shows what there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from secateur import cost, decisions
from secateur.bounds import difference, interval, linear, relaxed, rounding, window_rules
from secateur.bounds.activations import SLOPES, TURNING
from secateur.cli import app
from secateur.errors import InputError
from secateur.formats.keras.support import keras_support
from secateur.formats.keras.table import LAYERS
from secateur.graph import meaning, ops, places, rules
from secateur.graph.ops import OPS
from secateur.reconstruct.layers import VIEWS
from secateur.support import COLUMNS, as_markdown, support
from secateur.surgery import rewrite

NOT_ATEN = {"getitem", "onnxruntime"}
TABLES: dict[str, Iterable[str]] = {
    "rules.RULES": rules.RULES,
    "rules._BY_OP": rules._BY_OP,
    "interval.RULES": interval.RULES,
    "difference.RULES": difference.RULES,
    "rounding.ERRORS": rounding.ERRORS,
    "rounding.ABSOLUTE": rounding.ABSOLUTE,
    "linear.LINEAR": linear.LINEAR,
    "relaxed.RELAXED": relaxed.RELAXED,
    "window_rules.RULES": window_rules.RULES,
    "layers.VIEWS": VIEWS,
    "meaning._RULES": meaning._RULES,
    "places._CLASS_AXIS": places._CLASS_AXIS,
    "decisions._CUT_BACK": decisions._CUT_BACK,
    "cost._MACS": cost._MACS,
    "rewrite._REWRITES": rewrite._REWRITES,
}


# --- the table and the rules --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_every_op_with_a_rule_has_a_row_of_facts(name: str) -> None:
    assert set(TABLES[name]) <= set(OPS)


def test_every_row_is_used() -> None:
    unused = [row.op for row in support() if row.coupled == "no" and not row.interval]
    assert unused == []
    assert {row.family for row in OPS.values()} == set(get_args(ops.Family))


@pytest.mark.parametrize("name", sorted(OPS.keys() - NOT_ATEN))
def test_ops_are_those_of_aten_with_these_arguments(name: str) -> None:
    packet, row = getattr(torch.ops.aten, name), OPS[name]
    known = {a.name for overload in packet.overloads() for a in getattr(packet, overload)._schema.arguments}
    form = () if row.affine is None else (row.affine.data, row.affine.weight, row.affine.bias)
    named = {row.data, row.axes, *row.sizes.split(), *form} - {""}
    if name != "sym_size":
        assert named <= known


def test_sizes_that_surgery_rewrites_are_facts() -> None:
    assert set(rewrite._REWRITES) <= set(ops.where(lambda row: row.sizes))


def test_a_smooth_function_needs_one_row() -> None:
    """From monotony or turning points and a slope follow all bounds."""
    for name in SLOPES.keys() - {"pow", "reciprocal"}:
        row = OPS[name]
        assert row.monotone != "no" or row.turns is not None
        tables = [rules.RULES, interval.RULES, difference.RULES, rounding.ERRORS]
        tables += [relaxed.RELAXED] if row.everywhere else []  # type: ignore[list-item]
        assert all(name in table for table in tables)


# --- facts of functions, by sampling ------------------------------------------------------------------------

GRID = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
OPTIONS = {
    "alpha": 1.3, "scale": 1.1, "input_scale": 0.9, "min": -0.5, "max": 0.7, "min_val": -0.5, "max_val": 0.7,
    "beta": 2, "threshold": 20, "negative_slope": 0.2, "exponent": 2, "approximate": "none", "lambd": 0.4,
    "weight": torch.tensor([0.3], dtype=torch.float64),
}  # fmt: skip


def function_of(op: str) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    target = getattr(torch.ops.aten, op)
    overload = target.Tensor_Scalar if op == "pow" else target.default
    named = {a.name: OPTIONS[a.name] for a in overload._schema.arguments[1:] if a.name in OPTIONS}
    return (lambda x: overload(x, **named)), named


def grid_of(op: str) -> Tensor:
    return GRID if OPS[op].everywhere else GRID[GRID > 0]


FUNCTIONS = [name for name in ops.of("function") if name in interval.RULES]


@pytest.mark.parametrize("op", [name for name in FUNCTIONS if OPS[name].monotone != "no"])
def test_monotone_functions_are(op: str) -> None:
    steps = function_of(op)[0](grid_of(op)).diff()
    assert (steps <= 1e-15).all() if OPS[op].monotone == "decreasing" else (steps >= -1e-15).all()
    if OPS[op].monotone == "strictly increasing":
        middle = steps[(GRID[1:].abs() < 4)]
        assert (middle > 0).all()
        ends = torch.minimum(middle[0], middle[-1])
        assert (middle >= ends * (1 - 1e-9)).all()  # nowhere a least slope between the ends


@pytest.mark.parametrize("op", sorted(TURNING))
def test_functions_are_monotone_between_their_turning_points(op: str) -> None:
    function, named = function_of(op)
    points = torch.tensor([-9.0, *TURNING[op](named), 9.0], dtype=torch.float64)
    for low, high in pairwise(points.tolist()):
        steps = function(torch.linspace(low, high, 9_001, dtype=torch.float64)).diff()
        assert (steps >= -1e-15).all() or (steps <= 1e-15).all()


@pytest.mark.parametrize("op", sorted(SLOPES))
def test_slopes_are_derivatives(op: str) -> None:
    function, named = function_of(op)
    slope = SLOPES[op](named)
    x = grid_of(op)[::97].clone().requires_grad_()
    (expected,) = torch.autograd.grad(function(x).sum(), x)
    smooth = torch.stack([(x - kink).abs() > 1e-9 for kink in (*slope.kinks, 99.0)]).all(0)
    torch.testing.assert_close(slope.derivative(x.detach())[smooth], expected[smooth])


@pytest.mark.parametrize("op", [name for name in FUNCTIONS if OPS[name].keeps_sign])
def test_functions_that_keep_the_sign_do(op: str) -> None:
    assert torch.equal(function_of(op)[0](GRID).sign(), GRID.sign())


@pytest.mark.parametrize("op", [name for name in FUNCTIONS if OPS[name].nonnegative])
def test_functions_that_are_never_negative_are_not(op: str) -> None:
    assert (function_of(op)[0](grid_of(op)) >= 0).all()


@pytest.mark.parametrize("op", [name for name in FUNCTIONS if OPS[name].homogeneous])
def test_homogeneous_functions_are(op: str) -> None:
    function = function_of(op)[0]
    torch.testing.assert_close(function(3 * GRID), 3 * function(GRID))


@pytest.mark.parametrize("op", [name for name in FUNCTIONS if OPS[name].identity is not None])
def test_functions_are_the_identity_where_the_table_says(op: str) -> None:
    function, named = function_of(op)
    low, high = OPS[op].identity(named)  # type: ignore[misc]
    inside = GRID[(low <= GRID) & (high >= GRID)]
    assert len(inside) and torch.equal(function(inside), inside)


# --- what is shown ------------------------------------------------------------------------------------------


def test_the_table_is_that_of_the_code() -> None:
    rows = {row.op: row for row in support()}
    assert list(rows) == sorted(OPS)
    assert {name for name, row in rows.items() if row.refit} == set(VIEWS)
    assert {name for name, row in rows.items() if row.interval} == set(interval.RULES)
    assert {name for name, row in rows.items() if row.difference} == set(interval.RULES)
    assert all(row.interval for row in rows.values() if row.linear != "no")
    assert (rows["lstm"].coupled, rows["conv2d"].coupled, rows["im2col"].coupled) == ("whole", "yes", "no")
    assert (rows["conv2d"].linear, rows["softmax"].linear, rows["glu"].linear) == ("exact", "lines", "no")
    assert rows["relu"].onnx == ("Relu", "Clip")


def test_the_command_prints_the_table() -> None:
    text = CliRunner().invoke(app, ["ops"]).output.splitlines()
    assert text[0].split() == COLUMNS and len(text) == len(OPS) + 1
    assert text[1 + sorted(OPS).index("conv2d")].split() == "conv2d yes yes yes yes exact Conv".split()
    found = json.loads(CliRunner().invoke(app, ["ops", "--json"]).output)
    assert [row["op"] for row in found] == sorted(OPS) and found[0].keys() >= {"family", "coupled", "onnx"}


def test_the_page_of_the_documentation_holds_the_table() -> None:
    lines = as_markdown(COLUMNS, support()).splitlines()
    assert len(lines) == len(OPS) + 2 and "| `conv2d` | yes | yes | yes | yes | exact | Conv |" in lines


def test_layers_of_keras() -> None:
    rows = {row.layer: row for row in keras_support()}
    assert rows.keys() == LAYERS.keys()
    assert rows["Conv2D"].sizes == ("filters", "groups") and rows["Dense"].cells() == ("Dense", "units")
    assert rows["LSTM"].whole and rows["LayerNormalization"].whole and not rows["BatchNormalization"].whole
    assert (rows["MaxPooling2D"].sizes, rows["MaxPooling2D"].cells()[1]) == ((), "")
    run = lambda *names: CliRunner().invoke(app, ["ops", "--keras", *names])  # noqa: E731
    text = run().output.splitlines()
    assert text[0].split() == ["layer", "smaller"] and len(text) == len(LAYERS) + 1
    assert run("dense", "gru").output.splitlines()[1:] == ["Dense  units", "GRU    no: all units stay"]
    refused = str(run("Conv").exception)
    assert "'Conv' is no layer of Keras that secateur reads; there are similar ones: Conv" in refused


def test_the_command_prints_some_ops() -> None:
    """By their names in ATen or in ONNX, in any case."""
    run = lambda *names: CliRunner().invoke(app, ["ops", *names]).output.splitlines()  # noqa: E731
    assert [line.split()[0] for line in run("Conv", "RELU")] == ["op", "conv1d", "conv2d", "conv3d", "relu"]
    assert [row["op"] for row in json.loads("\n".join(run("conv2d", "--json")))] == ["conv2d"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("conv2", r"'conv2' is no op that secateur knows; there are similar ones: .*conv2d.* `secateur ops`"),
        ("xyzzy", "is no op that secateur knows; all ops are in the table of `secateur ops`"),
    ],
)
def test_an_unknown_op(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CliRunner().invoke(app, ["ops", name], catch_exceptions=False)
