"""Models that a function of the user's own code builds, with weights from a `.safetensors` file."""

from __future__ import annotations

import importlib
import os

from torch import nn

from secateur.errors import InputError
from secateur.formats.kinds import refuse_foreign
from secateur.formats.safetensors.weights import load_weights
from secateur.graph.export import first_line


def load_factory(factory: str, weights: str | os.PathLike[str] | None = None) -> nn.Module:
    """Call the function `package.module:name` without arguments; its module, with `weights`, in eval mode.

    `weights` is a `.safetensors` file that must fit exactly; of tied weights one name is enough. Raises
    `InputError` where the function cannot be imported or called, gives no nn.Module, or the weights do not
    fit.
    """
    module_name, _, function_name = factory.partition(":")
    if not module_name or not function_name:
        raise InputError(f"{factory!r} does not name a factory; write package.module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except ImportError as error:
        raise InputError(f"cannot import {module_name}: {error}. Is its folder on PYTHONPATH?") from error
    except AttributeError as error:
        raise InputError(f"{module_name} has no {function_name}") from error
    try:
        model = function()
    except Exception as error:
        raise InputError(
            f"{factory}() failed: {first_line(error)}. It must work without arguments"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{factory}() gave a {type(model).__name__}, not a torch.nn.Module")
    if weights is not None:
        if refuse_foreign(weights) != "safetensors":
            raise InputError(f"{weights}: weights must be a .safetensors file")
        load_weights(model, weights)
    return model.eval()
