"""Half precision: the whole model in float16, or only its weights in float16 or bfloat16."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from secateur.formats.onnx.edit import drop_unread, in_order
from secateur.quantize.packages import quantizers

Proto = Any
_FLOAT, FLOAT16, BFLOAT16 = 1, 10, 16
_LEAST = 16  # numbers of a weight that is worth a conversion
LARGEST = 65504.0  # of float16


def all_nodes(proto: Proto) -> list[str]:
    return [node.name for node in proto.graph.node]


def float16(proto: Proto, kept_float: Collection[str], found: Mapping[str, Any]) -> Proto:
    """The model with weights and values in float16; inputs and outputs stay in float32.

    Processors without float16 compute in float32 between conversions, which takes more time.
    """
    copy = type(proto)()
    copy.CopyFrom(proto)
    if not set(all_nodes(copy)) - set(kept_float):
        return copy  # else its inputs would be rounded
    with quantizers():
        from onnxruntime.transformers.float16 import convert_float_to_float16

        made = convert_float_to_float16(copy, keep_io_types=True, node_block_list=sorted(kept_float))
    return in_order(made)


def reading_weights(proto: Proto) -> list[str]:
    """Names of the nodes that read a weight of float32 that is worth a conversion."""
    large = {name for name, t in _weights(proto).items()}
    return [node.name for node in proto.graph.node if large & set(node.input)]


def _weights(proto: Proto) -> dict[str, Proto]:
    from math import prod

    return {t.name: t for t in proto.graph.initializer if t.data_type == _FLOAT and prod(t.dims) >= _LEAST}


def weights_in_half(proto: Proto, kept_float: Collection[str], kind: int) -> Proto:
    """The model with weights of type `kind`, which onnxruntime converts to float32 once, on loading.

    A weight that a node in `kept_float` reads stays as it is.
    """
    import ml_dtypes
    import numpy as np
    import onnx
    from onnx import numpy_helper

    made = type(proto)()
    made.CopyFrom(proto)
    kept = {name for node in made.graph.node if node.name in kept_float for name in node.input}
    nodes = list(made.graph.node)
    del made.graph.node[:]
    narrow = np.float16 if kind == FLOAT16 else ml_dtypes.bfloat16
    for name, weight in _weights(made).items():
        if name in kept:
            continue
        values = numpy_helper.to_array(weight)
        if kind == FLOAT16:
            values = values.clip(-LARGEST, LARGEST)
        stored = f"{name}_half"
        made.graph.initializer.append(numpy_helper.from_array(values.astype(narrow), stored))
        made.graph.node.append(
            onnx.helper.make_node("Cast", [stored], [name], name=f"{name}_to_float", to=_FLOAT)
        )
        weight.name = f"{name}_unread"
    made.graph.node.extend(nodes)
    drop_unread(made)
    return made
