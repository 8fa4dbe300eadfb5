"""Modules that cannot be captured: what they are and what to do, before torch.export fails on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from secateur.errors import CaptureError, few
from secateur.graph.sources import described

_QUANTISED = (  # where classes of quantised layers and tensors are defined
    "torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized",
    "torch.nn.quantized",
    "torchao", "bitsandbytes", "auto_gptq", "gptqmodel", "awq", "hqq", "quanto", "optimum.quanto",
)  # fmt: skip
_FLOAT = ("FloatFunctional", "FXFloatFunctional")  # float modules that are defined beside them
_PREPARED = ("torch.ao.quantization.observer", "torch.ao.quantization.fake_quantize", "torch.ao.nn.qat",
             "torch.ao.nn.intrinsic.qat")  # fmt: skip
_QUANTISED_OPS = ("quantized", "quantized_decomposed", "torchao")  # name spaces
_QUANTISING = ("quantize_per", "dequantize", "fake_quantize")  # in ATen

FLOAT_FIRST = "Prune the float model, then quantise the smaller one"


def check_fit(model: nn.Module) -> None:
    """Raise `CaptureError` for what `check_kind` refuses, and for modules in training mode."""
    check_kind(model)
    training = [name or "(the model)" for name, m in model.named_modules() if m.training]
    if training:
        raise CaptureError(
            f"the model is in training mode ({', '.join(training[:3])}{'…' if len(training) > 3 else ''}); "
            "call model.eval() first"
        )


def check_kind(model: nn.Module) -> None:
    """Raise `CaptureError` for a model without values, and for TorchScript, quantised and masked modules."""
    for found, told in _REFUSALS:
        names = list(found(model))
        if names:
            raise CaptureError(told(names))


def check_values(tensors: dict[str, Tensor]) -> None:
    """Raise `CaptureError` for tensors on the meta device, which have shapes and no values."""
    absent = [name for name, value in tensors.items() if _is_absent(value)]
    if absent:
        raise CaptureError(_absent_told(absent))


def check_quantised_ops(graph: fx.Graph) -> None:
    nodes = [
        n for n in graph.nodes if isinstance(n.target, torch._ops.OpOverload) and _is_quantising(n.target)
    ]
    if nodes:
        raise CaptureError(
            f"the model is quantised: {few([described(n) for n in nodes], '; ')}. {FLOAT_FIRST}"
        )


def _is_quantising(op: torch._ops.OpOverload) -> bool:
    space, _, name = op._schema.name.partition("::")
    return space in _QUANTISED_OPS or name.startswith(_QUANTISING)


# --- what is looked for -------------------------------------------------------------------------------------


def _scripted(model: nn.Module) -> Iterator[str]:
    scripted = [name for name, module in model.named_modules() if isinstance(module, torch.jit.ScriptModule)]
    return (name or "the model" for name in _outermost(scripted))


def _scripted_told(names: list[str]) -> str:
    return (
        f"TorchScript (torch.jit.script or trace) has no Python code to capture: {few(names)}. Build the "
        "model from its Python class and load the weights: model.load_state_dict(scripted.state_dict()). "
        "Without the class, write it as ONNX: torch.onnx.export(scripted, (example,), 'net.onnx', "
        "dynamo=False, input_names=['input'], dynamic_axes={'input': {0: 'batch'}}), and prune "
        "secateur.load_model('net.onnx')"
    )


def _outermost(names: list[str]) -> list[str]:
    """Without the parts of modules that are named themselves."""
    return [
        n
        for n in names
        if not any(n != other and n.startswith(f"{other}." if other else "") for other in names)
    ]


def _is_absent(value: Tensor) -> bool:
    return value.is_meta or nn.parameter.is_lazy(value) or type(value).__name__ == "FakeTensor"


def _absent(model: nn.Module) -> Iterator[str]:
    everything = (*model.named_parameters(), *model.named_buffers())
    return (name for name, value in everything if _is_absent(value) and not nn.parameter.is_lazy(value))


def _absent_told(names: list[str]) -> str:
    return (
        f"the model has no values for {few(names)}: these tensors are on the meta device. Load the weights "
        "with model.load_state_dict(state, assign=True), or build the model outside of "
        "torch.device('meta') and init_empty_weights()"
    )


def _lazy(model: nn.Module) -> Iterator[str]:
    return (
        name
        for name, value in (*model.named_parameters(), *model.named_buffers())
        if nn.parameter.is_lazy(value)
    )


def _lazy_told(names: list[str]) -> str:
    return (
        f"lazy layers have no weights yet: {few(names)}. Run the model once on an input, and load its weights"
    )


def _inferred(model: nn.Module) -> Iterator[str]:
    return (
        name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_inference()
    )


def _inferred_told(names: list[str]) -> str:
    return (
        f"the model was made in torch.inference_mode, and torch.export takes no such tensors: {few(names)}. "
        "Give a copy that is made outside of it: copy.deepcopy(model)"
    )


def _of(value: object, packages: tuple[str, ...]) -> bool:
    modules = [c.__module__ for c in type(value).__mro__]
    return any(m == p or m.startswith(f"{p}.") for m in modules for p in packages)


def _quantised(model: nn.Module) -> Iterator[str]:
    modules = dict(model.named_modules())
    for name in _outermost([n for n, m in modules.items() if _is_quantised(m)]):
        package = type(modules[name]).__module__.partition(".modules")[0]
        yield f"{name or 'the model'} ({package}.{type(modules[name]).__name__})"


def _is_quantised(module: nn.Module) -> bool:
    tensors = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    layer = _of(module, _QUANTISED) and type(module).__name__ not in _FLOAT
    return layer or any(t.is_quantized or _of(t, _QUANTISED) for t in tensors)


def _quantised_told(names: list[str]) -> str:
    why = "quantised layers hold whole numbers, among which units cannot be merged"
    return f"{why}: {few(names)}. {FLOAT_FIRST}"


def _prepared(model: nn.Module) -> Iterator[str]:
    modules = dict(model.named_modules())
    names = _outermost([name for name, module in modules.items() if _of(module, _PREPARED)])
    return (f"{name or 'the model'} ({type(modules[name]).__name__})" for name in names)


def _prepared_told(names: list[str]) -> str:
    return (
        f"the model is prepared for quantisation, with observers or fake quantisation: {few(names)}. Prune "
        "the float model first, then prepare and quantise the smaller one"
    )


def _masked(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if _of(hook, ("torch.nn.utils.prune",)):
                tensor = getattr(hook, "_tensor_name", "weight")
                yield f"torch.nn.utils.prune.remove({reached(name)}, {tensor!r})"


def _masked_told(calls: list[str]) -> str:
    return (
        "the model is masked by torch.nn.utils.prune, which computes its weights in every forward pass. "
        f"Make the masks permanent: {few(calls, '; ')}"
    )


def reached(path: str) -> str:
    """How to name a submodule in code."""
    return f"model.get_submodule({path!r})" if path else "model"


_REFUSALS: tuple[tuple[Callable[[nn.Module], Iterator[str]], Callable[[list[str]], str]], ...] = (
    (_scripted, _scripted_told),
    (_absent, _absent_told),
    (_lazy, _lazy_told),
    (_inferred, _inferred_told),
    (_quantised, _quantised_told),
    (_prepared, _prepared_told),
    (_masked, _masked_told),
)

# --- weights that are computed in every pass ----------------------------------------------------------------


def computed_weights(model: nn.Module) -> dict[str, str]:
    """Layer → why it stays whole and how that is undone: weight norm, spectral norm and parametrisations."""
    found = {}
    for path, module in model.named_modules():
        said = [*_parametrised(path, module), *_normed(path, module)]
        if said:
            found[path] = "; ".join(said)
    return found


def _parametrised(path: str, module: nn.Module) -> Iterator[str]:
    if parametrize.is_parametrized(module):
        for tensor, parts in module.parametrizations.items():  # type: ignore[operator,union-attr]
            by = ", ".join(type(part).__name__.lstrip("_") for part in parts)
            undo = f"torch.nn.utils.parametrize.remove_parametrizations({reached(path)}, {tensor!r})"
            yield _computed_by(path, tensor, by, undo)


def _normed(path: str, module: nn.Module) -> Iterator[str]:
    for hook in module._forward_pre_hooks.values():
        for name in ("weight_norm", "spectral_norm"):
            if _of(hook, (f"torch.nn.utils.{name}",)):
                tensor = getattr(hook, "name", "weight")
                yield _computed_by(
                    path, tensor, name, f"torch.nn.utils.remove_{name}({reached(path)}, {tensor!r})"
                )


def _computed_by(path: str, tensor: str, by: str, undo: str) -> str:
    name = f"{path}.{tensor}" if path else tensor
    return f"{name} is computed by {by} in every forward pass; to prune the layer, call {undo} first"
