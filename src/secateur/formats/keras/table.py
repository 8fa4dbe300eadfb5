"""The table of rules: a class of Keras → what makes its layer of torch.

A layer of a user's own is a row under the name that it was registered as, `package>Class`.
"""

from __future__ import annotations

from collections.abc import Callable

from secateur.formats.keras.activations import LAYERS as ACTIVATIONS
from secateur.formats.keras.attention import LAYERS as ATTENTION
from secateur.formats.keras.convolutions import LAYERS as CONVOLUTIONS
from secateur.formats.keras.dense import LAYERS as DENSE
from secateur.formats.keras.layer import Layer, Same
from secateur.formats.keras.merging import LAYERS as MERGING
from secateur.formats.keras.norms import LAYERS as NORMS
from secateur.formats.keras.operations import OPERATIONS
from secateur.formats.keras.pooling import LAYERS as POOLING
from secateur.formats.keras.preprocessing import LAYERS as PREPROCESSING
from secateur.formats.keras.recurrent import LAYERS as RECURRENT
from secateur.formats.keras.shaping import LAYERS as SHAPING
from secateur.formats.keras.spec import Spec
from secateur.formats.keras.wrappers import LAYERS as WRAPPERS

# Layers that only do something in training.
_TRAINING = (
    "Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout GaussianNoise "
    "ActivityRegularization Identity StochasticDepth RandomFlip RandomRotation RandomZoom RandomTranslation "
    "RandomContrast RandomBrightness RandomShear RandomColorJitter RandomHue RandomSaturation "
    "RandomSharpness RandomGrayscale RandomGaussianBlur RandomInvert RandomPosterization RandomErasing "
    "RandomPerspective RandomElasticTransform"
).split()

LAYERS: dict[str, Callable[[Spec], Layer]] = {
    **DENSE,
    **CONVOLUTIONS,
    **NORMS,
    **PREPROCESSING,
    **ACTIVATIONS,
    **POOLING,
    **SHAPING,
    **MERGING,
    **ATTENTION,
    **RECURRENT,
    **WRAPPERS,
    **OPERATIONS,
    **dict.fromkeys(_TRAINING, Same),
}


def layer_of(spec: Spec) -> Layer:
    """The layer of torch, without its weights. Raises `UnsupportedOpError` for a class without a rule."""
    if spec.kind not in LAYERS:
        spec.unsupported(
            "has no rule, and code of the file is never run. Write a Layer (secateur.formats.keras.layer) "
            f"that computes it, and enter it: secateur.formats.keras.table.LAYERS[{spec.kind!r}] = YourLayer"
        )
    return LAYERS[spec.kind](spec)
