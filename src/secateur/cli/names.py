"""Names that options offer, without the libraries behind them.

A test compares them with the library's own tables.
"""

from __future__ import annotations

from enum import StrEnum

Method = StrEnum("Method", "reconstruct saliency impact stochastic scale scaled_merging folding ridge exact")
Surrogate = StrEnum(
    "Surrogate",
    "uniform pink spectrum shapes inversion bn_inversion bn_moments mixture ranks written auto none",
)
Allocation = StrEnum("Allocation", "uniform global")
Attention = StrEnum("Attention", "auto heads widths both")
Head = StrEnum(
    "Head", "auto logits probabilities binary_logit binary_probability multi_label multi_label_logits none"
)
Norm = StrEnum("Norm", "linf l2")
Loss = StrEnum("Loss", "ce margin dlr")
Runtime = StrEnum("Runtime", "torch onnxruntime")
Bounds = StrEnum("Bounds", "linear interval")
Numbers = StrEnum("Numbers", "auto real float")
Distribution = StrEnum("Distribution", "ball surrogates data")
Independent = StrEnum("Independent", "shapes uniform pink")
Objective = StrEnum("Objective", "params macs bytes latency")
Sampler = StrEnum("Sampler", "tpe nsga2")
Scheme = StrEnum(
    "Scheme",
    {
        "int8": "int8",
        "fp16": "fp16",
        "fp16_weights": "fp16-weights",
        "bf16_weights": "bf16-weights",
        "int8_weights": "int8-weights",
        "int4_weights": "int4-weights",
    },
)


def listed(names: type[StrEnum]) -> str:
    """For a help text."""
    return ", ".join(names)
