"""ONNX files that are damaged, wrong or hostile: each is refused in words, at little cost, and nothing in it
is run.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, parser

import secateur
from secateur.errors import CaptureError, InputError, SecateurError, UnsupportedOpError
from secateur.formats.models import load_model
from secateur.formats.onnx.check import check_import
from secateur.formats.onnx.files import load_onnx
from secateur.formats.onnx.imported import OnnxModel
from secateur.graph.capture import capture
from secateur.graph.coupling import couple

Proto = Any
Case = tuple[Callable[[], Proto], type[SecateurError], tuple[str, ...]]
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
HEAD = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>'


def text(graph: str, *functions: str) -> Proto:
    """A model in ONNX's own notation; functions are of the domain `own`."""
    return parser.parse_model("\n".join([HEAD, graph, *functions]))


def function(body: str, name: str = "f") -> str:
    return f'<domain: "own", opset_import: ["" : 17, "own" : 1]> {name} (x) => (y) {{ {body} }}'


def built(
    nodes: Sequence[Proto],
    weights: Sequence[Proto] = (),
    shape: Sequence[Any] = ("N", 4),
    *,
    kind: int = FLOAT,
    opsets: Sequence[tuple[str, int]] = (("", 17),),
    output: str = "y",
) -> Proto:
    """A model of one input x and one output, without any check of it."""
    x = helper.make_tensor_value_info("x", kind, shape)
    graph = helper.make_graph(
        nodes, "g", [x], [helper.make_tensor_value_info(output, FLOAT, ["N", "M"])], weights
    )
    made = helper.make_model(graph, ir_version=8)
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets)
    return made


def relu(**changes: Any) -> Proto:
    return built([helper.make_node("Relu", ["x"], ["y"], name="act")], **changes)


def numbers(name: str, *shape: int, seed: int = 0) -> Proto:
    return numpy_helper.from_array(np.random.default_rng(seed).random(shape, dtype=np.float32), name)


def small() -> Proto:
    """A convolution, a norm, pooling, a reshape, a product and constants."""
    return text(
        """g (float[N,2,4,4] x) => (float[N,3] y)
           <float[3,2,1,1] "c.w" = {1,-2,3,4,5,-6}, float[3] "c.b" = {1,2,3}, int64[2] shape = {-1,12},
            float[3,12] "f.w" = {1,2,3,4,5,6,7,8,9,1,2,3,1,-2,3,4,5,6,7,8,9,1,2,3,1,2,3,4,-5,6,7,8,9,1,2,3},
            float[3] "f.b" = {1,2,3}, int64[1] three = {3}, float[3] ones = {1,1,1}, float[3] zeros = {0,0,0}>
           { a = Conv(x, "c.w", "c.b")
             n = BatchNormalization(a, ones, zeros, zeros, ones)
             r = Relu(n)
             p = MaxPool<kernel_shape = [2,2], strides = [2,2]>(r)
             q = Reshape(p, shape)
             h = Gemm<transB = 1>(q, "f.w", "f.b")
             k = ConstantOfShape(three)
             y = Add(h, k) }"""
    )


def saved(folder: Path, model: Proto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(path: Path, error: type[SecateurError], *said: str) -> str:
    """That the file is refused in these words and nothing is written."""
    before = files(path.parent)
    with pytest.raises(error) as caught:
        load_onnx(path)
    found = str(caught.value)
    assert not [part for part in said if part not in found], found
    assert files(path.parent) == before
    return found


def run_by_onnx(path: Path, *inputs: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    fed = {v.name: x for v, x in zip(session.get_inputs(), inputs, strict=True)}
    return list(session.run(None, fed))


def agrees(path: Path) -> OnnxModel:
    """The model, once it was captured and gave what onnxruntime gives for the file itself."""
    model = load_onnx(path)
    graph = capture(model)
    couple(graph)
    inputs = [torch.rand(x.shape) for x in model.example_inputs]
    expected = run_by_onnx(path, *(x.numpy() for x in inputs))
    with torch.no_grad():
        for run in (model, graph.module):
            torch.testing.assert_close(run(*inputs), torch.from_numpy(expected[0]), rtol=1e-4, atol=1e-4)
    return model


# --- files that are no models -------------------------------------------------------------------------------


def test_the_model_that_is_damaged_below_is_sound(tmp_path: Path) -> None:
    agrees(saved(tmp_path, small()))


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.8, 0.99])
def test_cut_file_is_refused(share: float, tmp_path: Path) -> None:
    path = saved(tmp_path, small())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, InputError, str(path))


@pytest.mark.parametrize(
    "content", [b"", b"this is no model\n" * 9, b"PK\x03\x04" + b"\0" * 64, b"\xff" * 64]
)
def test_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, InputError, str(path), "is not an ONNX model")


def test_folder_device_and_absent_file_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    refused(tmp_path / "folder.onnx", InputError, "folder.onnx is no file")
    refused(tmp_path / "absent.onnx", InputError, "absent.onnx", "No such file")
    (tmp_path / "endless.onnx").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"endless\.onnx is no file"):
        load_model(tmp_path / "endless.onnx")


def test_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, small())
    monkeypatch.setattr("secateur.formats.onnx.read.LIMIT", 100)
    monkeypatch.setattr(Path, "read_bytes", None)
    with pytest.raises(InputError, match="one ONNX file holds at most 100"):
        load_onnx(path)


@pytest.mark.sweep
@pytest.mark.parametrize("seed", range(40))
def test_flipped_bytes_give_an_error_in_words_or_a_model(seed: int, tmp_path: Path) -> None:
    path, draw = saved(tmp_path, small()), random.Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 1, 2, 8])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    try:
        model = load_onnx(path)
        check_import(model, model.example_inputs)
    except SecateurError as error:
        assert str(error)


def test_names_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, relu())
    for name in (b"act", b"Relu"):
        content = relu().SerializeToString().replace(name, b"\xff" * len(name))
        path.write_bytes(content)
        refused(path, InputError, str(path), "not text")


# --- models that do not fit together ------------------------------------------------------------------------


def with_weight(**changes: Any) -> Callable[[], Proto]:
    """x·w, where w is changed after it was made."""

    def make() -> Proto:
        weight = numbers("w", 4, 3)
        for name, value in changes.items():
            if isinstance(value, list):
                del getattr(weight, name)[:]
                getattr(weight, name).extend(value)
            elif value is None:
                weight.ClearField(name)
            else:
                setattr(weight, name, value)
        return built([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], [weight])

    return make


def with_output(*names: str) -> Proto:
    made = relu()
    del made.graph.output[:]
    made.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, ["N", "M"]) for name in names)
    return made


def with_nodes(
    *nodes: tuple[str, list[str], list[str]], weights: Sequence[Proto] = ()
) -> Callable[[], Proto]:
    return lambda: built(
        [helper.make_node(kind, i, o, name=f"n{j}") for j, (kind, i, o) in enumerate(nodes)], weights
    )


def sparse() -> Proto:
    made = with_weight()()
    made.graph.initializer.pop()
    values, places = numbers("w", 1), numpy_helper.from_array(np.zeros(1, np.int64), "places")
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 3]))
    return made


def sequence() -> Proto:
    made = relu()
    made.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", FLOAT, ["N", 4]))
    return made


STRUCTURE: dict[str, Case] = {
    "dims with too few bytes": (
        with_weight(dims=[4, 4]),
        InputError,
        ("'w'", "[4, 4]", "16 numbers", "holds 12"),
    ),
    "dims with too many bytes": (with_weight(dims=[4, 2]), InputError, ("'w'", "[4, 2]")),
    "a piece of a number": (with_weight(raw_data=b"\0" * 47), InputError, ("'w'", "47 bytes")),
    "dims with too few floats": (
        with_weight(raw_data=None, float_data=[1.0] * 11),
        InputError,
        ("'w'", "holds 11"),
    ),
    "floats in the wrong field": (
        with_weight(raw_data=None, int32_data=[1] * 12),
        InputError,
        ("'w'", "holds 0"),
    ),
    "negative dims": (with_weight(dims=[-4, -3]), InputError, ("'w'", "[-4, -3]")),
    "huge dims": (with_weight(dims=[2**40], raw_data=None), InputError, ("'w'", "1099511627776")),
    "large dims without data": (with_weight(dims=[2**30], raw_data=None), InputError, ("'w'", "holds 0")),
    "huge dims and a 0": (with_weight(dims=[0, 2**62, 2**62], raw_data=b""), InputError, ("'w'",)),
    "text as a weight": (with_weight(data_type=STRING), UnsupportedOpError, ("'w'", "string")),
    "an unknown type": (with_weight(data_type=99), UnsupportedOpError, ("'w'", "99")),
    "complex numbers": (with_weight(data_type=14), UnsupportedOpError, ("'w'", "complex64")),
    "a sparse weight": (sparse, UnsupportedOpError, ("'w'", "sparse", "dense")),
    "a weight that is missing": (
        with_nodes(("MatMul", ["x", "w"], ["y"])),
        InputError,
        ("MatMul 'n0'", "'w'", "no initializer"),
    ),
    "a weight that is there twice": (
        with_nodes(("MatMul", ["x", "w"], ["y"]), weights=[numbers("w", 4, 3), numbers("w", 4, 3)]),
        InputError,
        ("initializer 'w'", "twice"),
    ),
    "a node that reads itself": (
        with_nodes(("Add", ["x", "y"], ["y"])),
        InputError,
        ("Add 'n0'", "'y'", "itself"),
    ),
    "a cycle": (
        with_nodes(("Add", ["x", "b"], ["a"]), ("Relu", ["a"], ["b"]), ("Relu", ["b"], ["y"])),
        InputError,
        ("Add 'n0'", "'b'", "only later"),
    ),
    "a value used before it is made": (
        with_nodes(("Relu", ["a"], ["y"]), ("Relu", ["x"], ["a"])),
        InputError,
        ("Relu 'n0'", "'a'", "only later"),
    ),
    "a value that is made twice": (
        with_nodes(("Relu", ["x"], ["y"]), ("Tanh", ["x"], ["y"])),
        InputError,
        ("Tanh 'n1'", "'y'", "there already"),
    ),
    "an input that is made": (
        with_nodes(("Relu", ["x"], ["x"])),
        InputError,
        ("Relu 'n0'", "'x'", "there already"),
    ),
    "an output that nobody makes": (
        lambda: with_output("y", "z"),
        InputError,
        ("output 'z'", "nothing makes"),
    ),
    "an output twice": (lambda: with_output("y", "y"), InputError, ("output 'y'", "twice")),
    "no outputs": (lambda: with_output(), InputError, ("no outputs",)),
    "no ops": (lambda: built([]), InputError, ("no graph of ops",)),
    "no opset": (lambda: relu(opsets=()), InputError, ("no opset", "9 to 24")),
    "an old opset": (lambda: relu(opsets=[("", 5)]), InputError, ("opset 5", "9 to 24")),
    "a future opset": (lambda: relu(opsets=[("", 99)]), InputError, ("opset 99", "9 to 24")),
    "an input without axes": (lambda: relu(shape=()), InputError, ("input 'x'", "no batch axis")),
    "an input of less": (lambda: relu(shape=["N", -3]), InputError, ("input 'x'", "-3")),
    "an input of too much": (lambda: relu(shape=["N", 2**40]), InputError, ("input 'x'", "1099511627776")),
    "an input of text": (lambda: relu(kind=STRING), UnsupportedOpError, ("input 'x'", "string")),
    "an input that is a list": (sequence, UnsupportedOpError, ("input 'x'", "no tensor")),
    "an op with too few inputs": (
        with_nodes(("Conv", ["x"], ["y"])),
        InputError,
        ("not a valid ONNX model", "n0"),
    ),
    "an op without its attribute": (
        with_nodes(("Cast", ["x"], ["y"])),
        InputError,
        ("not a valid ONNX model",),
    ),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_model_that_does_not_fit_together_is_refused(case: str, tmp_path: Path) -> None:
    build, error, said = STRUCTURE[case]
    path = saved(tmp_path, build())
    refused(path, error, str(path), *said)


NUMBERS: dict[str, tuple[str, type[SecateurError], tuple[str, ...]]] = {
    "a weight of a product": (
        "<float[3,2] w = {1,1,1,1,1,1}> { y = MatMul(x, w) }",
        InputError,
        ("'y'", "(2, 3)"),
    ),
    "a weight of Gemm": (
        "<float[3,2] w = {1,1,1,1,1,1}> { y = Gemm(x, w) }",
        InputError,
        ("Gemm 'y'", "(2, 3)"),
    ),
    "a bias of Gemm": (
        "<float[2,2] w = {1,1,1,1}, float[3] b = {1,1,1}> { y = Gemm(x, w, b) }",
        InputError,
        ("Gemm 'y'", "(3,)"),
    ),
    "a kernel of too many axes": (
        "<float[1,1,1,1] w = {1}> { y = Conv(x, w) }",
        InputError,
        ("Conv 'y'", "(1, 1, 1, 1)"),
    ),
    "a weight without numbers": ("<float[0,2] w = {}> { y = MatMul(x, w) }", InputError, ("w", "(0, 2)")),
    "a reshape of too much": ("<int64[1] s = {7}> { y = Reshape(x, s) }", InputError, ("Reshape 'y'", "[7]")),
    "a constant of text": (
        '{ c = Constant<value_string = "no">() y = Identity(x) }',
        UnsupportedOpError,
        ("Constant 'c'", "no numbers"),
    ),
    "a NaN": (
        "<float[2,2] w = {nan,1,1,1}> { y = MatMul(x, w) }",
        CaptureError,
        ("w of shape (2, 2)", "1 NaN"),
    ),
    "an infinity": (
        "<float[2,2] w = {inf,1,1,1}> { y = MatMul(x, w) }",
        CaptureError,
        ("w of shape (2, 2)",),
    ),
    "a norm in training mode": (
        "<float[2] s = {1,1}> { y, m, v = BatchNormalization<training_mode = 1>(x, s, s, s, s) }",
        UnsupportedOpError,
        ("BatchNormalization 'y'", "training mode", "eval mode"),
    ),
    "a second output": (
        "{ u = Unsqueeze<axes = [1]>(x) p, i = MaxPool<kernel_shape = [1]>(u) f = Cast<to = 1>(i) y = Add(p, f) }",
        UnsupportedOpError,
        ("MaxPool 'p'", "'i'", "without it"),
    ),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_that_do_not_fit_are_refused_before_anything_is_pruned(case: str, tmp_path: Path) -> None:
    body, error, said = NUMBERS[case]
    model = text(f"g (float[N,2] x) => (float[N,M] y) {body}")
    if case == "a second output":
        model.opset_import[0].version = 12
    path = saved(tmp_path, model)
    with pytest.raises(error) as caught:
        secateur.inspect(load_onnx(path))
    assert not [part for part in said if part not in str(caught.value)], caught.value
    assert list(files(tmp_path)) == [path]


# --- sizes --------------------------------------------------------------------------------------------------


def filled(*sizes: int) -> Proto:
    """Sums with constants that the model makes."""
    body = [f"c{i} = ConstantOfShape(s{i}) h{i + 1} = Add(h{i}, c{i})" for i in range(len(sizes))]
    constants = ", ".join(f"int64[1] s{i} = {{{n}}}" for i, n in enumerate(sizes))
    ends = f"h0 = Relu(x) {' '.join(body)} y = Relu(h{len(sizes)})"
    return text(f"g (float[N,4] x) => (float[N,4] y) <{constants}> {{ {ends} }}")


@pytest.mark.parametrize("size", [-1, 2**29, 2**33, 2**62])
def test_large_constant_is_refused_before_it_is_made(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "full", None)
    refused(saved(tmp_path, filled(size)), InputError, "ConstantOfShape 'c0'", f"[{size}]")


def test_constants_have_one_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.formats.onnx.constants.CONSTANT_BYTES", 4000)
    refused(
        saved(tmp_path, filled(*[300] * 4)),
        InputError,
        "ConstantOfShape 'c3'",
        "[300]",
        "at most 4,000 bytes",
    )
    agrees(saved(tmp_path, filled(4, 4, 1)))


SIZES = {
    "repeats": ("int64[1] n = {300000000}", "s = Shape(x) t = Tile(s, n)", "Tile 't'"),
    "a range": ("int64 a = {0}, int64 b = {300000000}, int64 c = {1}", "t = Range(a, b, c)", "Range 't'"),
    "a shape from a shape": (
        "int64[6] n = {64,64,64,64,64,64}",
        "m = Identity(n) t = ConstantOfShape(m)",
        "ConstantOfShape 't'",
    ),
    "more axes": (
        "int64[3] n = {30000000,3,2}, int64 a = {1}",
        "s = Shape(x) e = Expand(s, n) t = Add(e, a)",
        "Expand 'e'",
    ),
    "a product of axes": (
        "int64 a = {0}, int64 b = {90000}, int64 c = {1}, int64[1] d = {1}",
        "r = Range(a, b, c) u = Unsqueeze(r, d) t = Add(r, u)",
        "Add 't'",
    ),
    "doubling": (
        "int64 a = {0}",
        "s0 = Shape(x) " + " ".join(f"s{i + 1} = Concat<axis = 0>(s{i}, s{i})" for i in range(60)),
        "Concat 's",
    ),
    "squaring": (
        "int64 a = {0}",
        "s0 = Shape(x) " + " ".join(f"s{i + 1} = Mul(s{i}, s{i})" for i in range(60)),
        "Mul 's",
    ),
    "a division by 0": ("int64 a = {0}", "s = Shape(x) t = Div(s, a)", "Div 't'"),
    "values without end": ("int64[3] n = {90000,50000,4}", "u = Relu(x) t = Expand(u, n)", "Expand 't'"),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_without_bound_are_refused_when_they_are_worked_out(case: str, tmp_path: Path) -> None:
    constants, body, named = SIZES[case]
    first = "float[4]" if case == "values without end" else "float[N,4]"
    model = text(f"g ({first} x) => ({first} y) <{constants}> {{ {body} y = Relu(x) }}")
    loaded = load_onnx(saved(tmp_path, model))
    with pytest.raises(InputError) as caught, torch.no_grad():
        loaded(torch.rand(4) if case == "values without end" else torch.rand(2, 4))
    assert named in str(caught.value)


# --- ops that have no rule ----------------------------------------------------------------------------------


def controlled(kind: str) -> Proto:
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "inner", [], [])
    names = ("then_branch", "else_branch") if kind == "If" else ("body",)
    return built([helper.make_node(kind, ["x"], ["y"], name="jump", **dict.fromkeys(names, inner))])


def quantised(kind: str) -> Proto:
    return built([helper.make_node(kind, ["x", "s"], ["y"], name="q")], [numbers("s")])


OPS: dict[str, Case] = {
    "another domain": (
        lambda: built(
            [helper.make_node("FusedConv", ["x"], ["y"], name="fast", domain="com.acme")],
            opsets=[("", 17), ("com.acme", 1)],
        ),
        UnsupportedOpError,
        ("com.acme.FusedConv 'fast'", "domains that onnxruntime does not have"),
    ),
    "ops for one processor": (
        lambda: built(
            [helper.make_node("Conv", ["x"], ["y"], name="fast", domain="com.microsoft.nchwc")],
            opsets=[("", 17), ("com.microsoft.nchwc", 1)],
        ),
        UnsupportedOpError,
        ("com.microsoft.nchwc.Conv 'fast'", "ORT_ENABLE_EXTENDED"),
    ),
    "quantised ops of onnxruntime": (
        lambda: built(
            [helper.make_node("MatMulNBits", ["x"], ["y"], name="q", domain="com.microsoft")],
            opsets=[("", 17), ("com.microsoft", 1)],
        ),
        UnsupportedOpError,
        ("com.microsoft.MatMulNBits 'q'", "is quantised"),
    ),
    "unknown ops": (
        with_nodes(
            ("SequenceAt", ["x"], ["a"]),
            ("Relu", ["a"], ["b"]),
            ("Nonsense", ["b"], ["c"]),
            ("SequenceAt", ["c"], ["y"]),
        ),
        UnsupportedOpError,
        ("SequenceAt 'n0'", "Nonsense 'n2'", "SequenceAt 'n3'", "no rule"),
    ),
    "more unknown ops than fit": (
        with_nodes(*[("Nonsense", [f"v{i}" if i else "x"], [f"v{i + 1}"]) for i in range(20)]),
        UnsupportedOpError,
        ("Nonsense 'n4' and 15 more",),
    ),
    "an inner name of ours": (
        with_nodes(("MatMul (+ Add)", ["x", "x"], ["y"])),
        InputError,
        ("MatMul (+ Add)",),
    ),
    "an unknown op in a function": (
        lambda: text("g (float[N,2] x) => (float[N,2] y) { y = own.f(x) }", function("y = Nonsense(x)")),
        UnsupportedOpError,
        ("Nonsense 'y'",),
    ),
    **{
        kind: (partial(controlled, kind), UnsupportedOpError, (f"{kind} 'jump'", "graphs inside"))
        for kind in ("If", "Loop", "Scan")
    },
    **{
        kind: (
            partial(quantised, kind),
            UnsupportedOpError,
            (f"{kind} 'q'", "the floating-point model that it was made of"),
        )
        for kind in ("QuantizeLinear", "DequantizeLinear")
    },
}


@pytest.mark.parametrize("case", OPS)
def test_op_without_a_rule_is_named(case: str, tmp_path: Path) -> None:
    build, error, said = OPS[case]
    path = saved(tmp_path, build())
    refused(path, error, str(path), *said)


# --- weights beside the model -------------------------------------------------------------------------------


@pytest.fixture
def apart(tmp_path: Path) -> Path:
    """A model in a folder of its own, its weights in a file beside it, and a file outside that it must not
    read.
    """
    folder = tmp_path / "inside"
    folder.mkdir()
    model = built([helper.make_node("MatMul", ["x", "w"], ["y"], name="product")], [numbers("w", 4, 3)])
    saved(folder, model, "inline.onnx")
    path = folder / "model.onnx"
    onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "secret.bin").write_bytes((folder / "w.bin").read_bytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "out").symlink_to(tmp_path)
    (folder / "sub").mkdir()
    return path


def moved(path: Path, tensor: Callable[[Proto], None] = lambda t: None, **entries: Any) -> Path:
    """The model with other entries for its weight; None takes one out."""
    model = onnx.load(str(path), load_external_data=False)
    weight = model.graph.initializer[0]
    found = {e.key: e.value for e in weight.external_data} | entries
    del weight.external_data[:]
    for key, value in found.items():
        if value is not None:
            weight.external_data.add(key=key, value=str(value))
    tensor(weight)
    return saved(path.parent, model)


def test_weights_beside_the_model_are_those_in_it(apart: Path) -> None:
    found, expected = agrees(apart), agrees(apart.with_name("inline.onnx"))
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    agrees(moved(apart, offset=None, length=None))


def test_weights_may_lie_in_a_folder_below(apart: Path) -> None:
    (apart.parent / "w.bin").rename(apart.parent / "sub" / "w.bin")
    agrees(moved(apart, location="sub/w.bin"))


EXTERNAL: dict[str, tuple[dict[str, Any], str]] = {
    "an absolute path": ({"location": "/etc/passwd"}, "only files in the model's folder"),
    "a path upwards": ({"location": "../secret.bin"}, "only files in the model's folder"),
    "a path down and up": ({"location": "sub/../../secret.bin"}, "only files in the model's folder"),
    "a path down and up inside": ({"location": "sub/../w.bin"}, "only files in the model's folder"),
    "a link out": ({"location": "link.bin"}, "leads out of the model's folder"),
    "a link to a folder outside": ({"location": "out/secret.bin"}, "leads out of the model's folder"),
    "a missing file": ({"location": "absent.bin"}, "'absent.bin', which is not there"),
    "a folder": ({"location": "sub"}, "which is no file"),
    "the folder itself": ({"location": "."}, "which is no file"),
    "a name without end": ({"location": "w" * 5000}, "cannot read 'w' from"),
    "a zero byte": ({"location": "w.bin\0"}, "only files in the model's folder"),
    "no location": ({"location": None}, "only files in the model's folder"),
    "backslashes": ({"location": "..\\secret.bin"}, "only files in the model's folder"),
    "a drive": ({"location": "C:w.bin"}, "only files in the model's folder"),
    "an address": ({"location": "https://example.com/w.bin"}, "only files in the model's folder"),
    "an offset outside": ({"offset": 4096}, "bytes 4,096 to 4,144 of 'w.bin', which has 48"),
    "an offset outside, no length": ({"offset": 4096, "length": None}, "which has 48"),
    "a negative offset": ({"offset": -4}, "bytes -4 to"),
    "a length outside": ({"length": 2**40}, "needs 48 bytes"),
    "a length too short": ({"length": 44}, "needs 48 bytes"),
    "a negative length": ({"length": -48}, "needs 48 bytes"),
    "no number": ({"offset": "here"}, "has no numbers for its place"),
    "a number without end": ({"offset": "9" * 9999}, "has no numbers for its place"),
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_weights_elsewhere_are_not_read(case: str, apart: Path) -> None:
    entries, said = EXTERNAL[case]
    path = moved(apart, **entries)
    refused(path, InputError, str(path), "'w'", said)


def test_weights_beside_of_another_shape_are_refused(apart: Path) -> None:
    for dims in ([4, 4], [-4, -3], [2**40], [2**62, 2**62]):
        path = moved(apart, lambda t, dims=dims: (t.ClearField("dims"), t.dims.extend(dims)))
        refused(path, InputError, str(path), "'w'", str(dims), "48")


def test_many_weights_in_one_place_have_one_budget(apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = onnx.load(str(apart), load_external_data=False)
    for i in range(50):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"w{i}"
    path = saved(apart.parent, model)
    monkeypatch.setattr("secateur.formats.onnx.read.LIMIT", path.stat().st_size + 1000)
    refused(path, InputError, str(path), "with its weights")


@pytest.mark.parametrize("place", ["constant", "function"])
def test_constants_in_other_files_are_refused_like_weights(place: str, apart: Path) -> None:
    body = "c = Constant<value = float[1] {1}>() y = Add(x, c)"
    inline = text(f"g (float[N,2] x) => (float[N,2] y) {{ {body} }}")
    called = text("g (float[N,2] x) => (float[N,2] y) { y = own.f(x) }", function(body))
    model, nodes = (inline, inline.graph.node) if place == "constant" else (called, called.functions[0].node)
    tensor = nodes[0].attribute[0].t
    tensor.Clear()
    tensor.CopyFrom(TensorProto(data_type=FLOAT, dims=[1], name="c", data_location=TensorProto.EXTERNAL))
    tensor.external_data.add(key="location", value="../secret.bin")
    path = saved(apart.parent, model)
    refused(path, InputError, str(path), "'c'", "only files in the model's folder")


# --- names --------------------------------------------------------------------------------------------------

NAMES = [
    # runs where names are written out as they are
    'training");getattr(__import__("os"),"system")("touch {marker}")#',
    '");import os;os.system("touch {marker}")#',
    "');import os;os.system('touch {marker}')#",
    '"""+__import__("os").system("touch {marker}")+"""',
    "w\nimport os; os.system('touch {marker}')\n",
    "w = __import__('os').system('touch {marker}')",
    "{{marker}}{0}%s\\",
    "a..b",
    ".",
    "..",
    "",
    " ",
    "0",
    "ñ/ü.重",
    "class",
    "__class__",
    "__dict__.x",
    "_parameters",
    "_modules.x",
    "forward",
    "forward.weight",
    "training",
    "proto",
    "nodes",
    "self",
    "self.self",
    "torch",
    "torch.ops",
    "inf",
    "device",
    "fx_pytree",
    "paths.x",
    "state_dict",
    "hosts",
    "last_use.x",
    "example_inputs",
    "a." * 5000 + "b",
    "inputs_0",
    "_lifted_tensor_constant0",
    "_guards_fn",
]


def named(first: str, second: str) -> Proto:
    """Two layers whose weights, nodes, input and output have these names."""
    names = [first or "_", second or "__"]
    nodes = [
        helper.make_node(
            "Gemm", [f"in{first}", names[0], f"{names[0]}.x"], [f"h{first}"], name=names[0], transB=1
        ),
        helper.make_node("Relu", [f"h{first}"], [f"r{first}"], name=second),
        helper.make_node("MatMul", [f"r{first}", names[1]], [f"out{second}"], name=f"{first}2"),
    ]
    weights = [numbers(names[0], 5, 4), numbers(f"{names[0]}.x", 5, seed=1), numbers(names[1], 5, 3, seed=2)]
    made = built(nodes, weights, output=f"out{second}")
    made.graph.input[0].name = f"in{first}"
    return made


@pytest.mark.sweep
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_names_are_never_code(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    name = name.replace("{marker}", str(marker))
    model = agrees(saved(tmp_path, named(name, f"{name}.weight")))
    assert len(list(model.parameters())) == 3
    assert not marker.exists()


def test_names_that_become_the_same_are_kept_apart(tmp_path: Path) -> None:
    for first, second in (("weight", "weight.y"), ("weight.y", "weight"), ("a b", "a_b"), ("a(b", "a)b")):
        agrees(saved(tmp_path, named(first, second)))


# --- functions ----------------------------------------------------------------------------------------------


def test_functions_are_written_out(tmp_path: Path) -> None:
    graph = "g (float[N,2] x) => (float[N,2] y) <float[2,2] w = {1,-2,3,4}> { h = MatMul(x, w) z = own.f(h) y = own.f(z) }"
    inner = function("c = Constant<value = float[2] {1, 2}>() y = Add(x, c)", "inner")
    model = agrees(saved(tmp_path, text(graph, function("z = own.inner(x) y = Relu(z)"), inner)))
    assert not model.proto.functions


FUNCTIONS: dict[str, tuple[list[str], str]] = {
    "one that calls itself": ([function("y = own.f(x)")], "calls itself: 'f' → 'f'"),
    "two that call each other": ([function("y = own.h(x)"), function("y = own.f(x)", "h")], "calls itself: "),
    "too many ops": (
        [function(f"z = own.f{i}(x) y = own.f{i}(z)", f"f{i + 1}" if i < 39 else "f") for i in range(1, 40)]
        + [function("y = Relu(x)", "f1")],
        "549,755,813,888 ops",
    ),
    "too deep": (
        [function(f"y = own.f{i}(x)", f"f{i + 1}" if i < 2999 else "f") for i in range(1, 3000)]
        + [function("y = Relu(x)", "f1")],
        "3001 levels deep",
    ),
    "one that is there twice": ([function("y = Relu(x)"), function("y = Tanh(x)")], "twice"),
    "one that is wrong inside": ([function("y = Add(x, z)")], "z"),
}


@pytest.mark.parametrize("case", FUNCTIONS)
def test_functions_without_end_are_refused(case: str, tmp_path: Path) -> None:
    functions, said = FUNCTIONS[case]
    path = saved(tmp_path, text("g (float[N,2] x) => (float[N,2] y) { y = own.f(x) }", *functions))
    refused(path, InputError, str(path), said)


def test_function_for_another_opset_is_refused(tmp_path: Path) -> None:
    model = text("g (float[N,2] x) => (float[N,2] y) { y = own.f(x) }", function("y = Relu(x)"))
    model.functions[0].opset_import[0].version = 12
    refused(saved(tmp_path, model), SecateurError, "model.onnx", "function")
