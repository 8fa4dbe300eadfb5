"""Models that Keras builds for the tests, with weights that are no zeros and norms that have seen data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as L
from keras import ops

Model = Any
MODELS: dict[str, Callable[[], Model]] = {}


def model(build: Callable[[], Model]) -> Callable[[], Model]:
    """Enter the function in the table, under its name."""

    def built() -> Model:
        keras.utils.clear_session()
        keras.utils.set_random_seed(1)
        return with_weights(build())

    MODELS[build.__name__] = built
    return built


def with_weights(made: Model) -> Model:
    """The model with random weights everywhere: fresh ones are zeros and ones in biases and norms."""
    generator = np.random.default_rng(2)
    for variable in made.weights:
        shape, name = tuple(variable.shape), variable.path.rpartition("/")[2]
        if not str(variable.dtype).startswith(("float", "bfloat")) or "seed" in variable.path:
            continue
        if name in ("gamma", "variance", "moving_variance", "scale"):
            variable.assign(generator.uniform(0.5, 1.5, shape).astype("float32"))
        elif len(shape) < 2:
            variable.assign(generator.normal(0, 0.3, shape).astype("float32"))
    return made


def image(*shape: int, name: str | None = None) -> Any:
    return keras.Input(shape, name=name)


def sequential(*layers: Any) -> Model:
    return keras.Sequential(list(layers))


@model
def dense() -> Model:
    return sequential(image(12), L.Dense(16, "relu"), L.Dense(14, "tanh"), L.Dense(4, "softmax"))


@model
def dense_without_bias() -> Model:
    return sequential(image(12), L.Dense(16, use_bias=False), L.LeakyReLU(), L.Dropout(0.5), L.Dense(4))


@model
def convolutions() -> Model:
    return sequential(
        image(12, 12, 3),
        L.Conv2D(12, 3, padding="same", activation="relu"),
        L.MaxPooling2D(),
        L.Conv2D(14, 3, strides=2, padding="same"),
        L.ReLU(max_value=6),
        L.Flatten(),
        L.Dense(10, "sigmoid"),
        L.Dense(3),
    )


@model
def batch_norms() -> Model:
    return sequential(
        image(11, 9, 3),
        L.Conv2D(12, 3, strides=2, padding="same", use_bias=False),
        L.BatchNormalization(),
        L.Activation("relu"),
        L.Conv2D(10, (3, 2), padding="same"),
        L.BatchNormalization(scale=False),
        L.Activation("swish"),
        L.GlobalAveragePooling2D(),
        L.Dense(8),
        L.BatchNormalization(center=False),
        L.Dense(3),
    )


@model
def channels_first() -> Model:
    first = {"data_format": "channels_first"}
    return sequential(
        image(3, 8, 8),
        L.Conv2D(10, 3, padding="same", activation="relu", **first),
        L.BatchNormalization(axis=1),
        L.ZeroPadding2D(1, **first),
        L.MaxPooling2D(2, **first),
        L.Conv2D(8, 3, activation="elu", **first),
        L.Flatten(**first),
        L.Dense(4),
    )


@model
def depthwise() -> Model:
    return sequential(
        image(12, 12, 3),
        L.Conv2D(12, 3, strides=2, padding="same"),
        L.ReLU(6.0),
        L.DepthwiseConv2D(3, padding="same"),
        L.BatchNormalization(),
        L.ReLU(6.0),
        L.Conv2D(10, 1),
        L.DepthwiseConv2D(3, depth_multiplier=2, activation="relu"),
        L.GlobalMaxPooling2D(),
        L.Dense(4),
    )


@model
def separable() -> Model:
    return sequential(
        image(12, 12, 3),
        L.SeparableConv2D(12, 3, padding="same", activation="relu"),
        L.SeparableConv2D(10, 3, strides=2, padding="same", use_bias=False, depth_multiplier=2),
        L.PReLU(shared_axes=[1, 2]),
        L.GlobalAveragePooling2D(keepdims=True),
        L.Flatten(),
        L.Dense(4),
    )


@model
def transposed() -> Model:
    return sequential(
        image(6, 6, 3),
        L.Conv2D(12, 3, padding="same", activation="relu"),
        L.Conv2DTranspose(10, 3, strides=2, padding="same", activation="relu"),
        L.Conv2DTranspose(8, 2, strides=2, activation="relu"),
        L.Conv2DTranspose(8, 4, padding="valid", activation="relu"),
        L.Conv2DTranspose(6, 2, strides=3, activation="relu"),
        L.Conv2D(2, 1),
    )


@model
def signal() -> Model:
    return sequential(
        image(20, 4),
        L.Conv1D(12, 5, padding="causal", activation="relu"),
        L.Conv1D(10, 3, strides=2, padding="same", dilation_rate=1),
        L.BatchNormalization(),
        L.ELU(),
        L.AveragePooling1D(2, padding="same"),
        L.SeparableConv1D(8, 3, padding="same", activation="relu"),
        L.Conv1DTranspose(8, 3, strides=2, padding="same", activation="relu"),
        L.UpSampling1D(2),
        L.Cropping1D((1, 2)),
        L.ZeroPadding1D(2),
        L.MaxPooling1D(3, strides=2, padding="same"),
        L.GlobalMaxPooling1D(),
        L.Dense(3),
    )


@model
def volume() -> Model:
    return sequential(
        image(6, 6, 6, 2),
        L.Conv3D(8, 3, padding="same", activation="relu"),
        L.MaxPooling3D(),
        L.BatchNormalization(),
        L.ZeroPadding3D(1),
        L.Cropping3D(1),
        L.Conv3DTranspose(6, 2, strides=2, activation="relu"),
        L.UpSampling3D(1),
        L.AveragePooling3D(2),
        L.GlobalAveragePooling3D(),
        L.Dense(3),
    )


@model
def pooling_same() -> Model:
    x = i = image(7, 9, 3)
    x = L.Conv2D(10, 3, activation="relu")(x)
    x = L.MaxPooling2D(3, strides=2, padding="same")(x)
    x = L.AveragePooling2D(2, strides=2, padding="same")(x)
    x = L.AveragePooling2D(3, strides=1, padding="same")(x)
    return keras.Model(i, L.Dense(3)(L.Flatten()(x)))


@model
def padded() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(10, 3, activation="relu")(L.ZeroPadding2D(((0, 1), (2, 1)))(x))
    x = L.Cropping2D(((1, 0), (0, 2)))(x)
    x = L.UpSampling2D(2)(x)
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    x = L.Conv2D(6, 3, dilation_rate=2, padding="same")(x)
    return keras.Model(i, L.GlobalAveragePooling2D()(x))


@model
def residual() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(12, 3, padding="same")(x)
    for _ in range(2):
        y = L.Conv2D(12, 3, padding="same", use_bias=False)(x)
        y = L.BatchNormalization()(y)
        y = L.ReLU()(y)
        y = L.Conv2D(12, 3, padding="same")(y)
        x = L.Add()([x, y])
        x = L.ReLU()(x)
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(i, L.Dense(4)(x))


@model
def dense_block() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(8, 3, padding="same", activation="relu")(x)
    for _ in range(2):
        y = L.BatchNormalization(axis=3)(x)
        y = L.Conv2D(6, 3, padding="same", activation="relu")(y)
        x = L.Concatenate(axis=-1)([x, y])
    x = L.BatchNormalization()(x)
    return keras.Model(i, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


@model
def squeeze_and_excite() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(12, 3, padding="same", activation="swish")(x)
    s = L.GlobalAveragePooling2D()(x)
    s = L.Reshape((1, 1, 12))(s)
    s = L.Conv2D(6, 1, activation="relu")(s)
    s = L.Conv2D(12, 1, activation="hard_sigmoid")(s)
    x = L.Multiply()([x, s])
    x = L.Conv2D(10, 1)(x)
    return keras.Model(i, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


@model
def merges() -> Model:
    i = image(10)
    a, b, c = (L.Dense(12, "relu")(i) for _ in range(3))
    x = L.Average()([a, b, c])
    x = L.Maximum()([x, L.Dense(12)(i)])
    x = L.Minimum()([x, L.Dense(12)(i)])
    x = L.Subtract()([x, L.Dense(12)(i)])
    return keras.Model(i, L.Dense(4)(L.Concatenate()([x, L.Dense(6, "relu")(i)])))


@model
def several_inputs_and_outputs() -> Model:
    a, b = image(8, name="a"), image(6, 6, 2, name="b")
    x = L.Dense(10, "relu")(a)
    y = L.Flatten()(L.Conv2D(8, 3, activation="relu")(b))
    z = L.Concatenate()([x, L.Dense(10, "relu")(y)])
    return keras.Model([a, b], [L.Dense(3, name="one")(z), L.Dense(2, "sigmoid", name="two")(x)])


@model
def dict_of_inputs() -> Model:
    b, a = image(8, name="b"), image(5, name="a")
    x = L.Concatenate()([L.Dense(10, "relu")(b), L.Dense(8, "relu")(a)])
    return keras.Model({"b": b, "a": a}, {"out": L.Dense(3)(x)})


@model
def shared_layer() -> Model:
    i, j = image(8), image(8)
    first, second = L.Dense(12, "relu", name="shared"), L.Dense(6, "relu")
    x = L.Concatenate()([second(first(i)), second(first(j))])
    return keras.Model([i, j], L.Dense(3)(x))


@model
def nested() -> Model:
    inner = keras.Sequential(
        [image(6, 6, 10), L.Conv2D(8, 3, activation="relu"), L.BatchNormalization()], name="inner"
    )
    j = image(4, 4, 8)
    deep = keras.Model(j, L.Dense(9, "relu")(L.GlobalAveragePooling2D()(j)), name="deep")
    x = i = image(8, 8, 3)
    x = L.Conv2D(10, 3, activation="relu")(x)
    return keras.Model(i, L.Dense(3)(deep(inner(x))))


@model
def nested_and_shared() -> Model:
    j = image(8)
    inner = keras.Model(j, L.Dense(10, "relu")(L.Dense(12, "relu")(j)), name="twin")
    a, b = image(8, name="left"), image(8, name="right")
    return keras.Model([a, b], L.Dense(3)(L.Subtract()([inner(a), inner(b)])))


@model
def nested_at_the_end() -> Model:
    j = image(10)
    head = keras.Model(j, [L.Dense(3)(L.Dense(9, "relu")(j))], name="head")
    x = i = image(8)
    return keras.Model(i, head(L.Dense(10, "relu")(x)))


@model
def layer_norms() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(12, 3, padding="same")(x)
    x = L.LayerNormalization(epsilon=1e-6)(x)
    x = L.Dense(20, "gelu")(x)
    x = L.Dense(12)(x)
    x = L.GroupNormalization(4)(x)
    x = L.Conv2D(12, 3, groups=3, activation="relu")(x)
    x = L.GroupNormalization(-1, scale=False)(x)
    x = L.UnitNormalization()(x)
    return keras.Model(i, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


@model
def rms_norm() -> Model:
    return sequential(image(8), L.Dense(12), L.RMSNormalization(), L.Dense(14, "silu"), L.Dense(3))


@model
def transformer() -> Model:
    i = keras.Input((10,), dtype="int32")
    x = L.Embedding(30, 16)(i)
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(4, 6)(y, y)])
        y = L.Dense(24, "gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(16)(y)])
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


@model
def attention_of_two() -> Model:
    i, j = image(6, 8), image(5, 8)
    x = L.Dense(12, "relu")(i)
    y = L.Dense(10, "relu")(j)
    x = L.MultiHeadAttention(2, 4, value_dim=3, use_bias=False, output_shape=10)(x, y)
    x = L.MultiHeadAttention(3, 4)(x, y, y, use_causal_mask=False)
    return keras.Model([i, j], L.Dense(3)(L.Flatten()(L.Dense(8, "relu")(x))))


@model
def plain_attention() -> Model:
    i = image(6, 8)
    q, v = L.Dense(10)(i), L.Dense(12, "relu")(i)
    x = L.Attention(use_scale=True)([q, v, L.Dense(10)(i)])
    x = L.Attention()([L.Dense(5, "relu")(x), L.Dense(5)(i)])
    return keras.Model(i, L.Dense(3)(L.Dense(9, "relu")(x)))


@model
def causal_attention() -> Model:
    x = i = image(6, 8)
    x = L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True)
    return keras.Model(i, L.Dense(3)(L.Dense(12, "relu")(x)))


@model
def recurrent() -> Model:
    x = i = image(6, 5)
    x = L.TimeDistributed(L.Dense(10, "relu"))(x)
    x = L.LSTM(7, return_sequences=True)(x)
    x = L.GRU(6, return_sequences=True, go_backwards=True)(x)
    x = L.SimpleRNN(6)(x)
    return keras.Model(i, L.Dense(3)(L.Dense(12, "relu")(x)))


@model
def bidirectional() -> Model:
    x = i = image(6, 5)
    x = L.Bidirectional(L.LSTM(5, return_sequences=True))(x)
    x = L.Bidirectional(L.GRU(4, reset_after=False), merge_mode="sum")(x)
    return keras.Model(i, L.Dense(3)(L.Dense(12, "relu")(x)))


@model
def text() -> Model:
    i = keras.Input((12,), dtype="int64")
    x = L.Embedding(20, 12)(i)
    x = L.SpatialDropout1D(0.2)(x)
    x = L.Conv1D(10, 3, activation="relu")(x)
    return keras.Model(i, L.Dense(1, "sigmoid")(L.GlobalMaxPooling1D()(x)))


@model
def masked() -> Model:
    i = keras.Input((12,), dtype="int32")
    x = L.Dense(10, "relu")(L.Embedding(20, 12, mask_zero=True)(i))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


@model
def preprocessing() -> Model:
    x = i = image(9, 9, 3)
    x = L.Rescaling(1 / 127.5, offset=-1)(x)
    x = L.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0])(x)
    x = L.RandomFlip()(x)
    x = L.Resizing(6, 5)(x)
    x = L.Conv2D(10, 3, activation="relu")(x)
    return keras.Model(i, L.Dense(3)(L.Flatten()(x)))


@model
def adapted() -> Model:
    norm = L.Normalization()
    norm.adapt(np.random.default_rng(0).normal(1, 2, (50, 7)).astype("float32"))
    return sequential(image(7), norm, L.Dense(12, "relu"), L.Dense(3))


@model
def rescaled_by_channel() -> Model:
    x = i = image(8, 8, 3)
    x = L.Rescaling(scale=[1.0, 2.0, 0.5], offset=[0.1, 0.2, 0.3])(x)
    x = L.Conv2D(10, 3, activation="relu")(x)
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(x)))


@model
def shapes() -> Model:
    x = i = image(4, 6)
    x = L.Dense(12, "relu")(x)
    x = L.Permute((2, 1))(x)
    x = L.Reshape((-1, 2))(x)
    x = L.Flatten()(x)
    x = L.Dense(8, "relu")(x)
    x = L.RepeatVector(3)(x)
    x = L.Reshape((3, 8, 1))(x)
    return keras.Model(i, L.Dense(2)(L.Flatten()(x)))


@model
def operations() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(10, 3, padding="same")(x)
    x = x * L.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)
    x = ops.clip(x, -1.0, 2.0) - 0.5
    x = ops.maximum(x, 0.0) / 2.0
    y = ops.mean(x, axis=(1, 2), keepdims=True)
    x = x * ops.sigmoid(y)
    x = ops.concatenate([x, L.Conv2D(6, 3, padding="same")(ops.gelu(x))], axis=-1)
    x = ops.relu(-x) + ops.square(x)
    x = ops.sum(x, axis=(1, 2))
    x = ops.squeeze(ops.expand_dims(x, 1), 1)
    return keras.Model(i, 1.0 - ops.softmax(L.Dense(4)(x)))


@model
def moving_operations() -> Model:
    x = i = image(6, 8)
    q, k = L.Dense(12)(x), L.Dense(12)(x)
    y = ops.softmax(ops.matmul(q, ops.transpose(k, (0, 2, 1))) / 3.0, axis=-1)
    x = ops.matmul(y, L.Dense(10, "relu")(x))
    x = ops.reshape(x, (-1, 60))
    x = L.Dense(12, "relu")(x)
    return keras.Model(i, L.Dense(6)(x)[:, 1:6:2])


@model
def slices() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(12, 3, padding="same", activation="relu")(x)
    a, b = x[:, :, :, :5], x[:, 1:, :, 5:]
    b = L.ZeroPadding2D(((1, 0), (0, 0)))(b)
    a = L.Conv2D(8, 3, padding="same", activation="relu")(a)
    x = L.Conv2D(6, 3)(L.Concatenate()([a, b]))
    return keras.Model(i, L.Dense(3)(x[:, 0, 1]))


@model
def split() -> Model:
    x = i = image(8, 8, 3)
    a, b = ops.split(L.Conv2D(12, 3, padding="same", activation="relu")(x), 2, axis=-1)
    c, d, e = ops.split(L.Conv2D(12, 3, padding="same", activation="relu")(a), [3, 7], axis=3)
    x = L.Concatenate()([b, L.Conv2D(8, 3, padding="same", activation="relu")(c), d, e])
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(6, 1)(x))))


@model
def shuffled_channels() -> Model:
    x = i = image(8, 8, 3)
    x = L.Conv2D(12, 3, padding="same", activation="relu")(x)
    x = L.Permute((1, 2, 4, 3))(L.Reshape((8, 8, 3, 4))(x))
    x = L.DepthwiseConv2D(3)(L.Reshape((8, 8, 12))(x))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(L.Conv2D(6, 1)(x))))


@model
def vision_transformer() -> Model:
    x = i = image(16, 16, 3)
    x = L.Reshape((16, 12))(L.Conv2D(12, 4, strides=4)(x))
    y = L.LayerNormalization()(x)
    x = x + L.MultiHeadAttention(3, 4)(y, y)
    x = x + L.Dense(12)(L.Dense(20, "gelu")(L.LayerNormalization()(x)))
    return keras.Model(i, L.Dense(3)(x[:, 0]))


@model
def activations() -> Model:
    names = "relu6 leaky_relu selu celu softplus softsign exponential hard_sigmoid hard_silu mish log_sigmoid"
    more = "hard_tanh hard_shrink soft_shrink tanh_shrink squareplus linear"
    x = i = image(8)
    for name in f"{names} {more}".split():
        x = L.Dense(8, name)(x)
    return keras.Model(i, L.Dense(3, "log_softmax")(x))


@model
def activation_layers() -> Model:
    x = i = image(6, 6, 3)
    for layer in (
        L.ReLU(negative_slope=0.1, max_value=2.0),
        L.ReLU(threshold=0.2, negative_slope=0.3),
        L.PReLU(),
        L.ELU(0.5),
        L.LeakyReLU(0.2),
        L.Softmax(axis=-1),
    ):
        x = layer(L.Conv2D(8, 3, padding="same")(x))
    x = L.Conv2D(8, 1, activation=L.LeakyReLU(0.4))(x)
    x = L.Conv2D(8, 1, activation="softmax")(x)
    return keras.Model(i, L.Dense(3)(L.Flatten()(x)))


@model
def dot_product() -> Model:
    i, j = image(8), image(8)
    a, b = (L.Dense(4)(L.Dense(10, "relu")(x)) for x in (i, j))
    return keras.Model([i, j], L.Dense(2)(L.Dot(axes=1)([a, b])))


@model
def mixed_precision() -> Model:
    policy = keras.DTypePolicy("mixed_bfloat16")
    return sequential(image(8), L.Dense(12, "relu", dtype=policy), L.Dense(3, dtype="float32"))


@model
def float64() -> Model:
    return sequential(
        keras.Input((8,), dtype="float64"), L.Dense(12, "relu", dtype="float64"), L.Dense(3, dtype="float64")
    )


@model
def strange_names() -> Model:
    x = i = image(8, name="the input")
    x = L.Dense(10, "relu", name="forward")(x)
    x = L.Dense(10, "relu", name="training")(x)
    x = L.Dense(10, "relu", name="b-c d(1)")(x)
    x = L.Dense(10, "relu", name="source")(x)
    return keras.Model(i, L.Dense(3, name="class")(x))


@model
def frozen() -> Model:
    base = keras.Sequential([image(8, 8, 3), L.Conv2D(8, 3), L.BatchNormalization(), L.ReLU()], name="base")
    base.trainable = False
    x = i = image(8, 8, 3)
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling2D()(base(x))))


@model
def unet() -> Model:
    x = i = image(8, 8, 1)
    a = L.Conv2D(8, 3, padding="same", activation="relu")(x)
    b = L.Conv2D(12, 3, padding="same", activation="relu")(L.MaxPooling2D()(a))
    c = L.Conv2DTranspose(8, 2, strides=2)(b)
    d = L.Conv2D(8, 3, padding="same", activation="relu")(L.Concatenate()([a, c]))
    return keras.Model(i, L.Conv2D(1, 1, activation="sigmoid")(d))


def inputs_of(made: Model, count: int = 3, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    """Random inputs of a model, in the order in which it takes them."""
    generator = np.random.default_rng(seed)
    found = []
    for x in made.inputs:
        shape, kind = (count, *x.shape[1:]), str(x.dtype)
        values = generator.integers(0, 10, shape) if "int" in kind else generator.random(shape)
        found.append(values.astype(kind))
    return found


def predicted(made: Model, inputs: list[Any]) -> list[np.ndarray[Any, Any]]:
    given = inputs[0] if len(inputs) == 1 else inputs
    if isinstance(getattr(made, "_inputs_struct", None), dict):
        given = dict(zip([x.name for x in made.inputs], inputs, strict=True))
    return [
        np.asarray(y.detach() if hasattr(y, "detach") else y)
        for y in keras.tree.flatten(made(given, training=False))
    ]
