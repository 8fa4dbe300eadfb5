"""Weights alone in 8 or 4 bits, of products with a constant matrix, by onnxruntime's MatMulNBits."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from secateur.quantize.packages import quantizers

Proto = Any
_BLOCK = 32  # weights that share a scale
_IN_INT8 = 4  # onnxruntime's "accuracy level": it multiplies in int8, which is the fast way


def matrix_nodes(proto: Proto) -> list[str]:
    """Names of the products with a constant matrix."""
    matrices = {t.name for t in proto.graph.initializer if t.data_type == 1 and len(t.dims) == 2}
    return [n.name for n in proto.graph.node if n.op_type == "MatMul" and n.input[1] in matrices]


def weights_in_bits(proto: Proto, kept_float: Collection[str], bits: int) -> Proto:
    """The model with these products in `bits` bits, but for those in `kept_float`.

    Blocks of 32 weights share a scale, symmetric about zero.
    """
    copy = type(proto)()
    copy.CopyFrom(proto)
    chosen = [name for name in matrix_nodes(copy) if name not in kept_float]
    if not chosen:
        return copy
    with quantizers():
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        quantizer = MatMulNBitsQuantizer(
            copy,
            bits=bits,
            block_size=_BLOCK,
            is_symmetric=True,
            accuracy_level=_IN_INT8,
            nodes_to_include=chosen,
        )
        quantizer.process()
    return quantizer.model.model
