"""ONNX files as other exporters write them: free sizes as −1, fixed batches, constant outputs, grids, masks.

Each file is a few nodes in ONNX's own text form. A file is right where it loads, is pruned, and the smaller
file gives in onnxruntime what the pruned model gives in torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

import secateur  # noqa: E402
from secateur.errors import CaptureError, InputError, UnsupportedOpError, VerificationError  # noqa: E402
from secateur.formats.onnx.check import check_import  # noqa: E402
from secateur.formats.onnx.draws import random_inputs  # noqa: E402
from secateur.formats.onnx.files import load_onnx, save_onnx  # noqa: E402
from secateur.formats.onnx.imported import OnnxModel  # noqa: E402
from secateur.formats.onnx.table import OPS  # noqa: E402

Proto = Any


def text(inputs: str, outputs: str, body: str, opset: int = 17, **weights: Any) -> Proto:
    """A model of these nodes; a weight is an array, or the shape of a random one."""
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )
    rng = np.random.default_rng(0)
    for name, value in weights.items():
        if isinstance(value, tuple):
            value = (rng.standard_normal(value) / np.sqrt(np.prod(value[1:]) or 1)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    for index, node in enumerate(model.graph.node):
        node.name = node.name or f"{index}/{node.op_type}"
    return model


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, dtype=np.int64)


def run(proto: Proto, *inputs: Tensor) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {v.name: x.numpy() for v, x in zip(session.get_inputs(), inputs, strict=True)})  # type: ignore[no-any-return]


def pruned(proto: Proto, folder: Path, example: Any = None, **options: Any) -> OnnxModel:
    """The smaller model, written, read again and run in onnxruntime with the file's batch (2 where it is
    free).
    """
    onnx.save(proto, folder / "model.onnx")
    model = load_onnx(folder / "model.onnx")
    example = model.example_inputs if example is None else example
    result = secateur.prune(model, example, **{"remove": 0.5, "method": "scale", "samples": 64} | options)
    small = result.model
    assert isinstance(small, OnnxModel)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    save_onnx(folder / "small.onnx", small)
    inputs = [x[: small.batch or 2] for x in random_inputs(small, example)]
    with torch.no_grad():
        ours = small(*inputs)
    theirs = run(onnx.load(folder / "small.onnx"), *inputs)
    for a, b in zip(ours if isinstance(ours, tuple) else (ours,), theirs, strict=True):
        torch.testing.assert_close(a, torch.from_numpy(b), rtol=1e-3, atol=1e-4)
    return small


MLP = {"w0": (12, 6), "b0": (12,), "w1": (8, 12), "w2": (3, 8)}
MLP_BODY = "h = Gemm<transB=1>(x, w0, b0) r = Relu(h) i = Gemm<transB=1>(r, w1) s = Relu(i) y = Gemm<transB=1>(s, w2)"

# --- sizes of −1 and 0 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [-1, 0])
def test_sizes_of_less_than_one_are_free(size: int, tmp_path: Path) -> None:
    proto = text("float[N,6] x", "float[N,3] y", MLP_BODY, **MLP)
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    small = pruned(proto, tmp_path)
    assert small.batch is None
    assert [len(run(small.proto, torch.rand(n, 6))[0]) for n in (1, 5)] == [1, 5]


def test_other_axes_of_less_than_one_need_an_example(tmp_path: Path) -> None:
    body = "c = Conv(x, k0) r = Relu(c) d = Conv(r, k1) p = GlobalAveragePool(d) y = Flatten(p)"
    proto = text("float[N,3,H,W] x", "float[N,4] y", body, k0=(8, 3, 3, 3), k1=(4, 8, 1, 1))
    for axis in (0, 2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = -1
    with pytest.raises(InputError, match="leaves the axes"):
        pruned(proto, tmp_path)
    pruned(proto, tmp_path, (torch.zeros(2, 3, 7, 7),))


# --- outputs without a batch --------------------------------------------------------------------------------

CONSTANTS = {
    "an initializer": ("", "priors", {"priors": np.arange(36, dtype=np.float32).reshape(9, 4)}),
    "a node on constants": ("q = Mul(priors, two)", "q", {"priors": (9, 4), "two": np.float32(2)}),
    "ids": ("q = Identity(ids)", "q", {"ids": ints(3, 1, 2)}),
    "a grid": (
        "v = Shape(t) q = Range(zero, n, one)",
        "q",
        {"zero": ints(0)[0], "one": ints(1)[0], "n": ints(7)[0]},
    ),
}


@pytest.mark.parametrize("method", ["scale", "reconstruct"])
@pytest.mark.parametrize("batch", ["N", 1, 2])
@pytest.mark.parametrize("case", CONSTANTS)
def test_output_that_depends_on_no_input(case: str, batch: int | str, method: str, tmp_path: Path) -> None:
    if method == "reconstruct" and (case, batch) not in (("an initializer", 1), ("a node on constants", "N")):
        pytest.skip("one case of each kind is enough for the slower method")
    body, name, constants = CONSTANTS[case]
    body = f"t = Relu(x) {body}" if "Shape" in body else body
    kind = "int64[3]" if case == "ids" else "int64[7]" if case == "a grid" else "float[9,4]"
    proto = text(
        f"float[{batch},6] x", f"float[{batch},3] y, {kind} {name}", f"{MLP_BODY} {body}", **MLP, **constants
    )
    pruned(proto, tmp_path, method=method)


# --- fixed batches ------------------------------------------------------------------------------------------

FRAMES = {"k": (8, 3, 3, 3), "w0": (128, 12), "w1": (12, 5)}


def frames(batch: int, steps: int = 3) -> Proto:
    """A convolution over frames, (batch, steps) merged and taken apart again with the numbers written out."""
    body = """
        f = Reshape(x, merged) c = Conv<pads=[1,1,1,1]>(f, k) r = Relu(c)
        p = MaxPool<kernel_shape=[2,2],strides=[2,2]>(r) g = Reshape(p, apart) h = MatMul(g, w0) q = Relu(h)
        z = MatMul(q, w1) y = ReduceMean<axes=[1], keepdims=0>(z)
    """
    sizes = {"merged": ints(batch * steps, 3, 8, 8), "apart": ints(batch, steps, 128)}
    return text(f"float[{batch},{steps},3,8,8] x", f"float[{batch},5] y", body, **FRAMES, **sizes)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batch_and_time_are_merged_with_numbers_written_out(batch: int, tmp_path: Path) -> None:
    pruned(frames(batch), tmp_path)


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_time_before_the_batch(batch: int, tmp_path: Path) -> None:
    """(batch, time) → (time, batch), merged and taken apart in this order: the batch varies fastest."""
    body = """
        t = Transpose<perm=[1,0,2]>(x) m = Reshape(t, merged) h = Gemm<transB=1>(m, w0, b0) r = Relu(h)
        g = Gemm<transB=1>(r, w1) a = Reshape(g, apart) b = Transpose<perm=[1,0,2]>(a)
        y = ReduceMax<axes=[1],keepdims=0>(b)
    """
    proto = text(
        f"float[{batch},3,6] x", f"float[{batch},8] y", body, merged=ints(3 * batch, 6), apart=ints(3, batch, 8),
        w0=(12, 6), b0=(12,), w1=(8, 12),
    )  # fmt: skip
    small = pruned(proto, tmp_path)
    x = torch.rand(3 * batch, 3, 6)
    one_by_one = np.concatenate([run(small.proto, part)[0] for part in x.split(batch)])
    np.testing.assert_allclose(small(x).detach().numpy(), one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
def test_values_that_the_file_repeats_for_each_sample(batch: int, tmp_path: Path) -> None:
    """A class token that is expanded, positions and zeros that are written out for each sample."""
    body = """
        e = Expand(token, sizes) h = MatMul(x, w0) c = Concat<axis=1>(e, h) p = Add(c, positions)
        z = Concat<axis=2>(p, zeros) r = Relu(z) q = MatMul(r, w1) i = Relu(q) m = ReduceMean<axes=[1], keepdims=0>(i)
        y = MatMul(m, w2)
    """
    proto = text(
        f"float[{batch},5,6] x", f"float[{batch},3] y", body, sizes=ints(batch, 1, 8), token=(1, 1, 8), w0=(6, 8),
        positions=np.repeat(np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 6, 8), batch, 0),
        zeros=np.zeros((batch, 6, 4), np.float32), w1=(12, 10), w2=(10, 3),
    )  # fmt: skip
    pruned(proto, tmp_path)


def test_only_sample_is_squeezed_out_and_put_back(tmp_path: Path) -> None:
    body = """
        h = Gemm<transB=1>(x, w0, b0) r = Relu(h) s = Squeeze(r, zero) u = Unsqueeze(s, zero) i = Gemm<transB=1>(u, w1)
        t = Relu(i) o = Gemm<transB=1>(t, w2) y = Gather<axis=0>(o, first)
    """
    pruned(text("float[1,6] x", "float[3] y", body, zero=ints(0), first=ints(0)[0], **MLP), tmp_path)


def test_samples_that_are_mixed_are_told(tmp_path: Path) -> None:
    """A product over the batch has no meaning for more samples than the file has."""
    body = "h = Gemm<transB=1>(x, w) t = Transpose(h) y = MatMul(h, t)"
    proto = text("float[2,6] x", "float[2,2] y", body, w=(12, 6))
    model = OnnxModel(proto)
    with pytest.raises((VerificationError, InputError), match=r"MatMul.*fixes the batch at 2"):
        check_import(model, model.example_inputs)


# --- as large as another value ------------------------------------------------------------------------------

BESIDE = {"k0": (8, 3, 1, 1), "k1": (8, 16, 1, 1), "k2": (4, 8, 1, 1)}
LIKE = {
    "ConstantOfShape": "s = Shape(r) z = ConstantOfShape(s)",
    "ones": "s = Shape(r) z = ConstantOfShape<value = float[1] {1}>(s)",
    "Expand": "s = Shape(r) z = Expand(half, s)",
    "through Cast": "s = Shape(r) i = Cast<to=6>(s) j = Cast<to=7>(i) z = Expand(half, j)",
    "size by size": """
        s = Shape(r) a = Gather(s, zero) b = Gather(s, one) c = Slice(s, two, four) d = Unsqueeze(a, axis)
        e = Unsqueeze(b, axis) f = Concat<axis=0>(d, e, c) z = ConstantOfShape(f)
    """,
    "Mul": "q = Mul(r, half) s = Shape(q) z = Expand(half, s)",
}


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("case", LIKE)
def test_values_as_large_as_another_shrink_with_it(case: str, batch: str | int, tmp_path: Path) -> None:
    body = f"""
        c0 = Conv(x, k0) r = Relu(c0) {LIKE[case]} k = Concat<axis=1>(r, z) c1 = Conv(k, k1) t = Relu(c1)
        y = Conv(t, k2)
    """
    numbers = {"half": np.float32(0.5), "zero": ints(0)[0], "one": ints(1)[0]}
    numbers |= {"two": ints(2), "four": ints(4), "axis": ints(0)}
    proto = text(f"float[{batch},3,6,6] x", f"float[{batch},4,6,6] y", body, **BESIDE, **numbers)
    small = pruned(proto, tmp_path)
    kernels = [tuple(t.dims) for t in small.proto.graph.initializer if t.name[0] == "k"]
    assert kernels == [(4, 3, 1, 1), (4, 8, 1, 1), (4, 4, 1, 1)]


def test_width_that_is_read_off_another_value_and_must_stay(tmp_path: Path) -> None:
    """Zeros of other sizes than the value that their number of channels is read off: all of them stay."""
    body = """
        c0 = Conv(x, k0) r = Relu(c0) g = GlobalAveragePool(r) s = Shape(r) b = Slice(s, one, two)
        f = Concat<axis=0>(n, b, n, n) z = ConstantOfShape<value = float[1] {1}>(f) k = Concat<axis=1>(g, z)
        c1 = Conv(k, k1) t = Relu(c1) y = Conv(t, k2)
    """
    proto = text("float[1,3,6,6] x", "float[1,4,1,1] y", body, n=ints(1), one=ints(1), two=ints(2), **BESIDE)
    small = pruned(proto, tmp_path)
    widths = {t.name: tuple(t.dims) for t in small.proto.graph.initializer}
    assert widths["k0"] == (4, 3, 1, 1) and widths["k1"] == (4, 12, 1, 1)


# --- infinity -----------------------------------------------------------------------------------------------

INF = np.float32(np.inf)
INFINITE = {
    "Max": ("m = Max(h, low)", {"low": -INF}),
    "Where": ("g = Greater(h, low) m = Where(g, h, h)", {"low": -INF}),
    "Clip": ("m = Clip(h, low, high)", {"low": np.float32(-1), "high": INF}),
    "a mask": ("a = Add(h, mask) m = Exp(a)", {"mask": np.array([0, -np.inf] * 6, np.float32)}),
    "a mask that is moved": ("t = Reshape(mask, flat) a = Add(h, t) m = Exp(a)", {
        "mask": np.array([[0, -np.inf]] * 6, np.float32), "flat": ints(12)}),
}  # fmt: skip


@pytest.mark.parametrize("case", INFINITE)
def test_infinity_that_is_compared_or_added_is_ordinary(case: str, tmp_path: Path) -> None:
    body, constants = INFINITE[case]
    rest = "r = Relu(m) i = Gemm<transB=1>(r, w1) s = Relu(i) y = Gemm<transB=1>(s, w2)"
    whole = f"h = Gemm<transB=1>(x, w0, b0) {body} {rest}"
    pruned(text("float[N,6] x", "float[N,3] y", whole, **MLP, **constants), tmp_path)


@pytest.mark.parametrize(
    ("body", "weights"),
    [
        ("y = Gemm<transB=1>(x, w)", {"w": np.full((3, 6), np.inf, np.float32)}),
        ("t = Transpose(w) y = MatMul(x, t)", {"w": np.full((3, 6), np.inf, np.float32)}),
        ("y = Mul(x, w)", {"w": np.full(6, np.inf, np.float32)}),
        ("y = Max(x, w)", {"w": np.full(6, np.nan, np.float32)}),
        ("y = LayerNormalization(x, w)", {"w": np.full(6, -np.inf, np.float32)}),
    ],
)
def test_weights_that_are_multiplied_must_be_finite(body: str, weights: dict[str, Any]) -> None:
    model = OnnxModel(text("float[N,6] x", "float[N,M] y", body, **weights))
    with pytest.raises(CaptureError, match=r"w of shape .* NaN or infinite values"):
        secateur.inspect(model)


# --- values that depend on constants and shapes alone -------------------------------------------------------


def detector(grid: str, **constants: Any) -> Proto:
    """Two convolutions whose map of 4 values a place is moved by a grid of the map's size."""
    body = (
        f"c = Conv(x, k0) r = Relu(c) d = Conv(r, k1) s = Shape(d) {grid} f = Reshape(d, flat) y = Add(f, g)"
    )
    constants |= {
        "flat": ints(0, 2, -1),
        "zero": ints(0)[0],
        "one": ints(1)[0],
        "axis0": ints(0),
        "axis1": ints(1),
    }
    return text("float[N,3,H,W] x", "float[N,2,A] y", body, k0=(8, 3, 3, 3), k1=(2, 8, 1, 1), **constants)


GRIDS = {
    "ranges": """
        h = Gather(s, two) w = Gather(s, three) i = Range(zero, h, one) j = Range(zero, w, one) a = Unsqueeze(i, axis1)
        b = Unsqueeze(j, axis0) hu = Unsqueeze(h, axis0) wu = Unsqueeze(w, axis0) hw = Concat<axis=0>(hu, wu)
        ia = Expand(a, hw) jb = Expand(b, hw) ua = Unsqueeze(ia, axis0) ub = Unsqueeze(jb, axis0)
        p = Concat<axis=0>(ub, ua) q = Reshape(p, flat2) t = Cast<to=1>(q) g = Add(t, half)
    """,
    "NonZero": """
        hw = Slice(s, axis2, axis4) ones = ConstantOfShape<value = int64[1] {1}>(hw) p = NonZero(ones) t = Cast<to=1>(p)
        g = Mul(t, half)
    """,
    "CumSum": """
        hw = Slice(s, axis2, axis4) ones = ConstantOfShape<value = float[1] {1}>(hw) v = CumSum(ones, zero)
        u = CumSum(ones, one) uu = Unsqueeze(u, axis0) vv = Unsqueeze(v, axis0) p = Concat<axis=0>(uu, vv)
        q = Reshape(p, flat2) g = Sub(q, half)
    """,
}


@pytest.mark.parametrize("case", GRIDS)
@pytest.mark.parametrize("size", [6, 50])
def test_grids_are_worked_out_once_the_shape_is_known(case: str, size: int, tmp_path: Path) -> None:
    constants = {
        "two": ints(2)[0],
        "three": ints(3)[0],
        "axis2": ints(2),
        "axis4": ints(4),
        "flat2": ints(2, -1),
    }
    proto = detector(GRIDS[case], half=np.float32(0.5), **constants)
    example = (torch.zeros(2, 3, size + 2, size),)
    small = pruned(proto, tmp_path, example)
    other = torch.rand(1, 3, 9, 7)  # the grid stays in the file as nodes, for any size
    assert run(small.proto, other)[0].shape == (1, 2, 7 * 5)


def test_ops_on_shapes_alone_are_refused_on_data(tmp_path: Path) -> None:
    onnx.save(text("float[N,6] x", "int64[2,M] y", "a = Relu(x) y = NonZero(a)"), tmp_path / "model.onnx")
    with pytest.raises((UnsupportedOpError, CaptureError), match="NonZero '1/NonZero'"):
        secateur.inspect(load_onnx(tmp_path / "model.onnx"))


def test_grid_of_the_batch_s_size_is_told() -> None:
    body = """
        s = Shape(x) n = Gather(s, zero) r = Range(zero, n, one) c = Cast<to=1>(r) u = Unsqueeze(c, axis) y = Add(x, u)
    """
    model = OnnxModel(
        text("float[N,6] x", "float[N,6] y", body, zero=ints(0)[0], one=ints(1)[0], axis=ints(1))
    )
    with pytest.raises((CaptureError, UnsupportedOpError), match="batch"):
        secateur.inspect(model)


# --- budgets ------------------------------------------------------------------------------------------------

DOUBLED = " ".join(f"v{i + 1} = Concat<axis=1>(v{i}, v{i})" for i in range(60))
HUGE = {
    "Expand": ("y = Expand(x, n)", {"n": ints(2**20, 2**20, 6)}),
    "Tile": ("y = Tile(x, n)", {"n": ints(2**30, 2**10)}),
    "Pad": ("y = Pad(x, n)", {"n": ints(0, 2**40, 0, 0)}),
    "ConstantOfShape": ("s = Shape(x) t = Mul(s, n) z = ConstantOfShape(t) y = Add(z, x)", {"n": ints(2**33, 1)}),
    "Resize": ("u = Unsqueeze(x, n) y = Resize(u, , scales)", {"n": ints(1), "scales": np.float32([1, 1, 2**40])}),
    "Concat": (f"v0 = Relu(x) {DOUBLED} y = Relu(v60)", {}),
    "Add": ("a = Reshape(x, n) b = Transpose(a) c = Tile(a, m) d = Tile(b, k) y = Add(c, d)", {
        "n": ints(-1, 1), "m": ints(2**16, 1), "k": ints(1, 2**16)}),
    "MatMul": ("a = Reshape(x, n) c = Tile(a, m) d = Transpose(c) y = MatMul(c, d)", {
        "n": ints(-1, 1), "m": ints(2**16, 1),
    }),
    "Conv": ("u = Unsqueeze(x, n) y = Conv<pads=[1000000000, 1000000000]>(u, k)", {"n": ints(1), "k": (4, 1, 3)}),
}  # fmt: skip


@pytest.mark.parametrize("case", HUGE)
def test_values_beyond_the_budget_are_refused_before_they_are_made(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, constants = HUGE[case]
    model = OnnxModel(text("float[N,6] x", "float[N,M] y", body, **constants))
    monkeypatch.setattr("secateur.formats.onnx.model.VALUE_BYTES", 2**24)
    with pytest.raises(InputError, match=rf"{case} '.*' (makes a value of|works out) [\d,]+ bytes"):
        model(torch.rand(2, 6))


@pytest.mark.slow
def test_light_vgg_loads() -> None:
    """Its first dense layer is a ConstantOfShape of 4096 × 25088."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_vgg19.onnx"
    model = load_onnx(path)
    assert sum(p.numel() for p in model.parameters()) == 143_667_240


def test_refusal_lists_five_nodes_and_a_count(tmp_path: Path) -> None:
    body = (
        " ".join(f"v{i + 1} = SequenceAt(v{i})" for i in range(9)).replace("v0)", "x)").replace("v9 ", "y ")
    )
    onnx.save(text("float[N,6] x", "float[N,6] y", body), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedOpError, match=r"'4/SequenceAt' and 4 more") as told:
        load_onnx(tmp_path / "model.onnx")
    assert str(told.value).count("/SequenceAt'") == 5


# --- the import check ---------------------------------------------------------------------------------------


def chaotic() -> Proto:
    """Rounding grows: the difference of two near values, enlarged, under a steep function."""
    body = "h = MatMul(x, w0) a = Add(h, big) b = Sub(a, big) c = Mul(b, big) d = Sin(c) y = MatMul(d, w1)"
    return text("float[N,6] x", "float[N,3] y", body, w0=(6, 8), w1=(8, 3), big=np.float32(300))


def test_rounding_that_grows_is_no_difference() -> None:
    model = OnnxModel(chaotic())
    check_import(model, [torch.zeros(2, 6)])


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        ("Sin", lambda node, x: torch.sin(x) + 0.01),
        ("MatMul (+ Add)", lambda node, x, w: 1.001 * F.linear(x, w)),
        ("Sub", lambda node, x, y: x - 0.9 * float(y.item())),
    ],
)
def test_wrong_rule_is_found_where_rounding_grows(
    kind: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OPS, kind, wrong)
    with pytest.raises(VerificationError, match=rf"^{kind.split()[0]}.*apart, .* of the largest value"):
        check_import(OnnxModel(chaotic()), [torch.zeros(2, 6)])


def test_wrong_rule_that_shows_on_large_values_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = text("float[N,6] x", "float[N,6] y", "a = Relu(x) y = Sqrt(a)")
    monkeypatch.setitem(OPS, "Relu", lambda node, x: F.relu6(x))
    with pytest.raises(VerificationError, match="Relu '0/Relu'"):
        check_import(OnnxModel(proto), [torch.zeros(2, 6)])


def test_wrong_entry_beside_a_mask_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The size of a mask's −3·10³⁸ says nothing of the scores beside it."""
    body = "m = Add(x, mask) s = Softmax(m) y = Mul(s, s)"
    mask = np.array([0, 0, 0, 0, 0, np.finfo(np.float32).min], np.float32)
    proto = text("float[N,6] x", "float[N,6] y", body, mask=mask)
    check_import(OnnxModel(proto), [torch.zeros(2, 6)])
    monkeypatch.setitem(OPS, "Add", lambda node, x, y: x * 1.05 + y)
    with pytest.raises(VerificationError, match="Add '0/Add'"):
        check_import(OnnxModel(proto), [torch.zeros(2, 6)])


def test_ids_are_drawn_over_the_table() -> None:
    proto = text("int64[N,5] x", "float[N,5,4] y", "i = Cast<to=6>(x) y = Gather(table, i)", table=(50, 4))
    model = OnnxModel(proto)
    drawn = torch.cat([random_inputs(model, [torch.zeros(20, 5, dtype=torch.int64)], i)[0] for i in range(3)])
    assert drawn.min() == 0 and 40 < drawn.max() < 50


def test_ids_are_drawn_over_what_they_are_compared_with() -> None:
    body = "u = Unsqueeze(x, axis) e = Equal(u, classes) f = Cast<to=1>(e) y = MatMul(f, w)"
    proto = text(
        "int32[N,5] x", "float[N,5,3] y", body, axis=ints(2), classes=np.arange(30, dtype=np.int32), w=(30, 3)
    )
    (drawn,) = random_inputs(OnnxModel(proto), [torch.zeros(40, 5, dtype=torch.int32)])
    assert drawn.dtype == torch.int32 and 25 < drawn.max() < 30
