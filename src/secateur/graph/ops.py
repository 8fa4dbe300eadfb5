"""Facts of every op that secateur knows, in one table.

A fact holds of the op whoever asks: the coupling rules, the bounds, the exact methods and the reader of heads
take their plain rows from `OPS`. What needs code stays a function in the file of its analysis. To teach
secateur an op that is like others, add a row; `secateur ops` shows what follows from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from secateur.graph import functions as f
from secateur.graph.functions import Arguments, SlopeOf, TurningPoints, at

Family = Literal[
    # of one tensor, element by element: a function, a copy, dropout, a constant of the same shape
    "function", "copy", "dropout", "filled",
    # of several tensors, element by element
    "arithmetic", "comparison", "choice",
    # elements that move: to other axes, shapes or orders, several times, together, apart, only some of them
    "transpose", "reshape", "reorder", "repeat", "join", "split", "pick", "padding",
    # elements that are mixed
    "triangle", "reduction", "scan", "pooling", "resampling", "sampling", "softmax", "log_softmax", "gate",
    "batch_norm", "norm", "attention", "recurrent",
    # layers
    "linear", "convolution", "product", "embedding",
    # sizes, writing at indices, Python's value[index], an op of another format that is run as it is
    "size", "put", "item", "foreign",
]  # fmt: skip
MOVES: tuple[Family, ...] = ("copy", "transpose", "reshape", "reorder", "repeat", "join", "split", "pick")

# "strictly increasing": on all numbers, the slope nowhere least between the ends of an interval (`decisions`
# relies on it).
Monotone = Literal["no", "increasing", "strictly increasing", "decreasing"]

# The rounding error of an element-wise function: none, a share of its result, or a share of its argument too
# (where the result is computed as a difference).
RoundingError = Literal["exact", "relative", "cancelling"]


@dataclass(frozen=True)
class AffineForm:
    """The names of an affine op's arguments, and the axes of its units in the weight and in the output."""

    data: str
    weight: str
    bias: str = ""
    weight_axis: int = 0
    output_axis: int = -1


@dataclass(frozen=True)
class Facts:
    """What holds of an op. What does not apply, or is not known, is left at its default."""

    family: Family
    onnx: str = ""  # the ONNX ops that are read as it, separated by spaces

    # arguments, by schema name
    affine: AffineForm | None = None
    data: str = ""  # the argument that is data where the others are parameters
    axes: str = ""  # the argument that names axes
    sizes: str = ""  # the arguments that follow from the numbers of units, separated by spaces

    # as a function of its tensors
    monotone: Monotone = "no"
    weighted_sum: bool = False  # a sum with weights ≥ 0 that depend on shapes alone
    extreme: Literal["", "max", "min"] = ""  # of elements
    homogeneous: bool = False  # f(s x) = s f(x) for s > 0, of an activation
    keeps_sign: bool = False  # f(x) grows with x and has its sign, at least by default
    nonnegative: bool = False  # no result is below 0

    # as a function of one number
    turns: TurningPoints | None = None
    slope: SlopeOf | None = None
    everywhere: bool = True  # the function and its slope are finite on all numbers
    identity: Callable[[Arguments], tuple[float, float]] | None = None  # the interval on which f(x) = x
    rounding: RoundingError = "relative"


function = partial(Facts, "function")
increasing = partial(function, monotone="increasing")
strictly_increasing = partial(function, monotone="strictly increasing")
convolution = partial(Facts, "convolution", data="input", sizes="groups")


def each(names: str, facts: Facts) -> dict[str, Facts]:
    """The same facts for several ops."""
    return dict.fromkeys(names.split(), facts)


def _hardtanh_identity(a: Arguments) -> tuple[float, float]:
    return float(a["min_val"]), float(a["max_val"])


def _positive(a: Arguments) -> tuple[float, float]:
    return 0.0, math.inf


# fmt: off
OPS: dict[str, Facts] = {
    # --- functions: from monotony, turning points and slope follow all bounds -------------------------------
    "abs": function("Abs", turns=at(0.0), slope=f.abs_slope, homogeneous=True, nonnegative=True,
                    rounding="exact"),
    "asinh": strictly_increasing("Asinh", slope=f.asinh_slope, keeps_sign=True),
    "atan": strictly_increasing("Atan", slope=f.atan_slope, keeps_sign=True),
    "ceil": increasing("Ceil", rounding="exact"),
    "celu": function("Celu", turns=at(0.0), slope=f.celu_slope, keeps_sign=True, rounding="cancelling"),
    "clamp": increasing("Clip", slope=lambda a: f.clamp_slope(a["min"], a["max"]), rounding="exact"),
    "clamp_max": increasing(slope=lambda a: f.clamp_slope(None, a["max"]), rounding="exact"),
    "clamp_min": increasing(slope=lambda a: f.clamp_slope(a["min"], None), rounding="exact"),
    "elu": function("Elu", turns=at(0.0), slope=f.elu_slope, keeps_sign=True, rounding="cancelling"),
    "erf": strictly_increasing("Erf", slope=f.erf_slope, keeps_sign=True),
    "exp": strictly_increasing("Exp", slope=f.exp_slope, nonnegative=True),
    "expm1": strictly_increasing(slope=f.exp_slope, keeps_sign=True),
    "floor": increasing("Floor", rounding="exact"),
    "gelu": function("Gelu", turns=f.gelu_turns, slope=f.gelu_slope, rounding="cancelling"),
    "hardshrink": increasing("Shrink", rounding="exact"),
    "hardsigmoid": increasing("HardSigmoid", slope=f.hardsigmoid_slope, nonnegative=True,
                              rounding="cancelling"),
    "hardswish": function("HardSwish", turns=at(-1.5), slope=f.hardswish_slope, rounding="cancelling"),
    "hardtanh": increasing(slope=lambda a: f.clamp_slope(a["min_val"], a["max_val"]),
                           identity=_hardtanh_identity, rounding="exact"),
    "leaky_relu": function("LeakyRelu", turns=at(0.0), slope=f.leaky_relu_slope, identity=_positive,
                           homogeneous=True, keeps_sign=True),
    "log": increasing("Log", slope=f.log_slope, everywhere=False),
    "log1p": increasing(slope=f.log1p_slope, everywhere=False),
    "log_sigmoid": strictly_increasing(slope=f.log_sigmoid_slope, rounding="cancelling"),
    "mish": function("Mish", turns=at(f.MISH_MIN), slope=f.mish_slope, rounding="cancelling"),
    "neg": function("Neg", monotone="decreasing", homogeneous=True, rounding="exact"),
    "pow": function("Pow", turns=f.pow_turns, slope=f.pow_slope, everywhere=False),
    "prelu": function("PRelu", data="self", turns=at(0.0), identity=_positive, homogeneous=True,
                      keeps_sign=True),
    "reciprocal": function("Reciprocal", slope=f.reciprocal_slope, everywhere=False),
    "relu": increasing("Relu Clip", identity=_positive, homogeneous=True, nonnegative=True, rounding="exact"),
    "relu6": increasing(slope=f.relu6_slope, identity=lambda a: (0.0, 6.0), nonnegative=True,
                        rounding="exact"),
    "round": increasing("Round", rounding="exact"),
    "rsqrt": function(monotone="decreasing", slope=f.rsqrt_slope, everywhere=False),
    "selu": strictly_increasing("Selu", slope=f.selu_slope, keeps_sign=True, rounding="cancelling"),
    "sigmoid": strictly_increasing("Sigmoid", slope=f.sigmoid_slope, nonnegative=True),
    "sign": increasing("Sign", rounding="exact"),
    "silu": function("Swish", turns=at(f.SILU_MIN), slope=f.silu_slope, rounding="cancelling"),
    "sinh": increasing("Sinh", slope=f.sinh_slope, keeps_sign=True),
    "softplus": increasing("Softplus", slope=f.softplus_slope, nonnegative=True, rounding="cancelling"),
    "softshrink": increasing("Shrink", slope=f.softshrink_slope),
    "sqrt": increasing("Sqrt", slope=f.sqrt_slope, everywhere=False, nonnegative=True),
    "square": function(turns=at(0.0), slope=f.square_slope, nonnegative=True),
    "tanh": strictly_increasing("Tanh", slope=f.tanh_slope, keeps_sign=True),

    # functions without bounds: units pass, nothing else is known
    "acos": function("Acos"), "acosh": function("Acosh"), "asin": function("Asin"),
    "atanh": function("Atanh"), "bernoulli": function("Bernoulli"), "cos": function("Cos"),
    "cosh": function("Cosh"), "isinf": function("IsInf"), "isnan": function("IsNaN"),
    "logical_not": function("Not"), "nan_to_num": function(), "sin": function("Sin"), "tan": function("Tan"),
    "threshold": function("ThresholdedRelu"),

    # --- copies, dropout, constants and sizes ---------------------------------------------------------------
    "to": Facts("copy", "Cast CastLike"),
    **each("_to_copy alias clone contiguous detach lift_fresh_copy type_as", Facts("copy")),
    **each("alpha_dropout dropout feature_alpha_dropout feature_dropout", Facts("dropout")),
    "full_like": Facts("filled", "ConstantOfShape"),
    **each("ones_like zeros_like", Facts("filled")),
    **each("new_full new_ones new_zeros", Facts("size", sizes="size")),
    "sym_size": Facts("size", "Shape Size"),

    # --- several tensors, element by element ----------------------------------------------------------------
    "add": Facts("arithmetic", "Add Sum"),
    **each("addcdiv addcmul lerp", Facts("arithmetic")),
    "div": Facts("arithmetic", "Div"),
    **each("fmod remainder", Facts("arithmetic", "Mod")),
    "maximum": Facts("arithmetic", "Max", extreme="max"),
    "minimum": Facts("arithmetic", "Min", extreme="min"),
    "mul": Facts("arithmetic", "Mul"),
    "rsub": Facts("arithmetic"),
    "sub": Facts("arithmetic", "Sub"),
    "eq": Facts("comparison", "Equal"), "ge": Facts("comparison", "GreaterOrEqual"),
    "gt": Facts("comparison", "Greater"), "le": Facts("comparison", "LessOrEqual"),
    "lt": Facts("comparison", "Less"), "ne": Facts("comparison"),
    "bitwise_and": Facts("comparison", "BitwiseAnd"), "bitwise_or": Facts("comparison", "BitwiseOr"),
    "logical_and": Facts("comparison", "And"), "logical_or": Facts("comparison", "Or"),
    "logical_xor": Facts("comparison", "Xor"),
    "masked_fill": Facts("choice"),
    "where": Facts("choice", "Where"),

    # --- elements that move ---------------------------------------------------------------------------------
    "permute": Facts("transpose", "Transpose"),
    **each("mT movedim numpy_T t transpose", Facts("transpose")),
    "reshape": Facts("reshape", "Reshape Flatten", sizes="shape"),
    "unflatten": Facts("reshape", sizes="sizes"),
    "flatten": Facts("reshape", "Flatten"),
    "squeeze": Facts("reshape", "Squeeze"),
    "unsqueeze": Facts("reshape", "Unsqueeze"),
    "reshape_as": Facts("reshape"),
    "pixel_shuffle": Facts("reorder", "DepthToSpace"),
    "flip": Facts("reorder", "Slice"),
    **each("channel_shuffle pixel_unshuffle", Facts("reorder")),
    "roll": Facts("reorder", axes="dims"),
    "expand": Facts("repeat", "Expand", sizes="size"),
    "repeat": Facts("repeat", "Tile"),
    **each("broadcast_to expand_as repeat_interleave tile", Facts("repeat")),
    "cat": Facts("join", "Concat"),
    **each("hstack stack vstack", Facts("join")),
    "split": Facts("split", sizes="split_size"),
    "split_with_sizes": Facts("split", "Split", sizes="split_sizes"),
    "chunk": Facts("split", sizes="chunks"),
    **each("tensor_split unbind", Facts("split", axes="dim")),
    "slice": Facts("pick", "Slice", axes="dim", sizes="start end"),
    "index_select": Facts("pick", "Gather", axes="dim"),
    "gather": Facts("pick", "GatherElements", axes="dim"),
    "select": Facts("pick", "Gather", axes="dim"),
    "narrow": Facts("pick", axes="dim"),
    "unfold": Facts("pick", axes="dimension"),
    **each("im2col index", Facts("pick")),
    "index_put": Facts("put"),
    "pad": Facts("padding", "Pad"),
    "constant_pad_nd": Facts("padding"),
    **each("reflection_pad1d reflection_pad2d reflection_pad3d", Facts("padding")),
    **each("replication_pad1d replication_pad2d replication_pad3d", Facts("padding")),

    # --- elements that are mixed ----------------------------------------------------------------------------
    **each("tril triu", Facts("triangle", "Trilu", weighted_sum=True)),
    "mean": Facts("reduction", "ReduceMean", axes="dim", weighted_sum=True),
    "sum": Facts("reduction", "ReduceSum", axes="dim", weighted_sum=True),
    "amax": Facts("reduction", "ReduceMax", axes="dim", extreme="max"),
    "amin": Facts("reduction", "ReduceMin", axes="dim", extreme="min"),
    "max": Facts("reduction", axes="dim", extreme="max"),
    "min": Facts("reduction", axes="dim", extreme="min"),
    "linalg_vector_norm": Facts("reduction", "ReduceL1 ReduceL2 GlobalLpPool", axes="dim", nonnegative=True),
    "logsumexp": Facts("reduction", "ReduceLogSumExp", axes="dim", monotone="increasing"),
    "prod": Facts("reduction", "ReduceProd", axes="dim"),
    **each("norm std var", Facts("reduction", axes="dim")),
    "cumsum": Facts("scan", "CumSum", axes="dim", weighted_sum=True),
    "cumprod": Facts("scan", axes="dim"),
    **each("avg_pool1d avg_pool2d avg_pool3d", Facts("pooling", "AveragePool", weighted_sum=True)),
    **each("adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
           Facts("pooling", "GlobalAveragePool", weighted_sum=True)),
    **each("max_pool1d max_pool2d max_pool3d", Facts("pooling", "MaxPool", extreme="max")),
    **each("adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
           Facts("pooling", "GlobalMaxPool", extreme="max")),
    "max_pool2d_with_indices": Facts("pooling", extreme="max"),
    **each("upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d "
           "upsample_trilinear3d", Facts("resampling", "Resize Upsample", weighted_sum=True)),
    **each("_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d",
           Facts("resampling", weighted_sum=True)),
    "upsample_bicubic2d": Facts("resampling", "Resize"),
    "grid_sampler": Facts("sampling", "GridSample"),
    "softmax": Facts("softmax", "Softmax", axes="dim", nonnegative=True),
    **each("_safe_softmax _softmax", Facts("softmax", axes="dim", nonnegative=True)),
    "log_softmax": Facts("log_softmax", "LogSoftmax", axes="dim"),
    "_log_softmax": Facts("log_softmax", axes="dim"),
    "glu": Facts("gate", axes="dim"),
    "scaled_dot_product_attention": Facts("attention", "Attention"),
    "batch_norm": Facts("batch_norm", "BatchNormalization", data="input"),
    "group_norm": Facts("norm", "GroupNormalization", data="input", sizes="num_groups"),
    "instance_norm": Facts("norm", "InstanceNormalization", data="input"),
    "layer_norm": Facts("norm", "LayerNormalization", data="input", sizes="normalized_shape"),
    "rms_norm": Facts("norm", "RMSNormalization", data="input", sizes="normalized_shape"),
    "gru": Facts("recurrent", "GRU"),
    "lstm": Facts("recurrent", "LSTM"),
    **each("rnn_relu rnn_tanh", Facts("recurrent", "RNN")),

    # --- layers and products --------------------------------------------------------------------------------
    "linear": Facts("linear", "Gemm MatMul", AffineForm("input", "weight", "bias"), data="input"),
    "conv1d": convolution("Conv", AffineForm("input", "weight", "bias", 0, -2)),
    "conv2d": convolution("Conv", AffineForm("input", "weight", "bias", 0, -3)),
    "conv3d": convolution("Conv", AffineForm("input", "weight", "bias", 0, -4)),
    "conv_transpose1d": convolution("ConvTranspose", AffineForm("input", "weight", "bias", 1, -2)),
    "conv_transpose2d": convolution("ConvTranspose", AffineForm("input", "weight", "bias", 1, -3)),
    "conv_transpose3d": convolution("ConvTranspose", AffineForm("input", "weight", "bias", 1, -4)),
    "matmul": Facts("product", "MatMul", AffineForm("self", "other", weight_axis=1)),
    "mm": Facts("product", affine=AffineForm("self", "mat2", weight_axis=1)),
    "bmm": Facts("product", affine=AffineForm("self", "mat2", weight_axis=2)),
    "mv": Facts("product"),
    "addmm": Facts("product", affine=AffineForm("mat1", "mat2", "self", weight_axis=1)),
    "baddbmm": Facts("product", affine=AffineForm("batch1", "batch2", "self", weight_axis=2)),
    "einsum": Facts("product", "Einsum"),
    "embedding": Facts("embedding", "Gather", data="indices"),

    "getitem": Facts("item"),
    "onnxruntime": Facts("foreign"),
}
# fmt: on


def of(*families: Family) -> tuple[str, ...]:
    """The ops of these families, in the order of the table."""
    return tuple(name for name, facts in OPS.items() if facts.family in families)


def where(holds: Callable[[Facts], object]) -> tuple[str, ...]:
    """The ops of whose facts something holds."""
    return tuple(name for name, facts in OPS.items() if holds(facts))


# Groups of ops that several analyses ask for.
SIZES_ALONE = of("filled", "size")  # the result depends on sizes and dtypes alone
MOVEMENT = of(*MOVES)  # every result is one of the elements
ONE_TO_ONE = of("copy", "transpose", "reshape", "reorder")  # every element goes to one place
FILLING = of("choice", "padding")  # linear where what is filled in is constant
WEIGHTED_SUMS = where(lambda row: row.weighted_sum)
MAXIMA = where(lambda row: row.extreme == "max")
MINIMA = where(lambda row: row.extreme == "min")
SOFTMAXES = of("softmax", "log_softmax")
LAYERS = of("linear", "convolution")
AFFINE = {name: row.affine for name, row in OPS.items() if row.affine is not None}
