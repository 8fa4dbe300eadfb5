"""The imported graph against the model in onnxruntime, before anything is pruned.

Outputs are compared on several random inputs. Where they are further apart than a tolerance, rounding may
have grown on its way through the network, so every node is run in torch on the values that onnxruntime has
there: a rule that is right gives the same up to the rounding of one op, whatever the network makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import InputError, VerificationError
from secateur.formats.onnx.draws import DRAWS, random_inputs
from secateur.formats.onnx.model import OnnxGraph, Proto, as_output
from secateur.formats.onnx.node import Node
from secateur.formats.onnx.read import LIMIT, require_packages
from secateur.formats.onnx.recurrent import KINDS as RECURRENT
from secateur.formats.onnx.tensors import to_proto, to_torch

# Shares of a value's range.
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 6e-2}
_ROUNDINGS = 10  # how much more than torch's own rounding in float32 a node may be off
_SPREADS = 100  # how much more than by optimising its graph onnxruntime's outputs may differ from ours
_UNEXPLAINED = 0.05  # of an output's range; less is left to rounding where every node is right
_TYPICAL = 100  # how many times the median of a value's size counts as its range

Values = Mapping[str, Tensor]


def check_import(model: OnnxGraph, inputs: Sequence[Tensor]) -> None:
    """Compare the model with onnxruntime on random inputs.

    Raises `VerificationError` naming the first node whose value in torch is not that in onnxruntime.

    `inputs` say the shapes; a batch that the model fixes is run a piece at a time. Cost: a run in torch and
    one in onnxruntime for each draw; where outputs differ, a run of all nodes one by one.
    """
    require_packages("onnx", "onnxruntime")
    runtime, unexplained = Runtime(model), list[str]()
    for draw in range(DRAWS):
        drawn = random_inputs(model, inputs, draw)
        with torch.no_grad():
            found = runtime.ours(drawn)
        expected = runtime.theirs(drawn, model.outputs, found)
        bad = [name for name in model.outputs if not close(found[name], expected[name])]
        if bad:
            _check_nodes(runtime, drawn)
            unexplained += _beyond_spread(runtime, drawn, bad, found, expected)
    if len(unexplained) == DRAWS:
        raise VerificationError(unexplained[0])


@dataclass(frozen=True)
class Where:
    """Where a value has its batch: along `axis`, `outer` times over."""

    axis: int
    outer: int


class Runtime:
    """The model in torch and in onnxruntime, on any number of samples."""

    def __init__(self, model: OnnxGraph) -> None:
        self.model = model
        self.places = dict[str, Where]()

    @cached_property
    def plain(self) -> Any:
        """The model in onnxruntime, whose graph is run as it is."""
        return session(self.model.proto)

    def ours(self, inputs: Sequence[Tensor], everything: bool = False) -> dict[str, Tensor]:
        batch = self.model.at_hand(inputs)
        found = self.model.run(inputs, batch, everything=everything)
        if batch is not None:
            axes = {name: batch.axis(name, value) for name, value in found.items()}
            self.places = {
                n: Where(axis, batch.outer.get(n, 1)) for n, axis in axes.items() if axis is not None
            }
        return {name: as_output(name, value) for name, value in found.items()}

    def pieces(self, inputs: Sequence[Tensor]) -> Iterator[list[Tensor]]:
        """Of the batch that the model fixes, or all samples at once."""
        count = len(inputs[0])
        step = self.model.batch or count
        for start in range(0, count, step):
            yield [x[start : start + step] if x.ndim and len(x) == count else x for x in inputs]

    def theirs(
        self,
        inputs: Sequence[Tensor],
        names: Sequence[str],
        like: Values,
        run: Callable[..., Any] | None = None,
    ) -> dict[str, Tensor]:
        """Values of the names for all samples; those of a fixed batch are put together as `ours` were."""
        parts = [(run or self.plain)(list(names), _fed(self.model, piece)) for piece in self.pieces(inputs)]
        return {name: self._whole(name, values, like) for name, *values in zip(names, *parts, strict=True)}

    def _whole(self, name: str, parts: Sequence[Tensor], like: Values) -> Tensor:
        place = self.places.get(name)
        if place is None:  # no batch: the same for all samples, or there is a difference to tell
            other = next((p for p in parts if p.shape != like[name].shape or not close(p, parts[0])), None)
            return parts[0] if other is None else other
        axis, own = place.axis, self.model.batch
        if len({p.shape for p in parts}) > 1 or axis >= parts[0].ndim:
            return parts[0]
        split = [p.unflatten(axis, (place.outer, own, -1)) for p in parts]
        return torch.cat(split, axis + 1).flatten(axis, axis + 2)


def run_onnx(model: OnnxGraph, inputs: Sequence[Tensor], outputs: Sequence[str]) -> dict[str, Tensor]:
    """Values of the named outputs, from onnxruntime.

    Where onnxruntime lacks kernels (bfloat16), from ONNX's reference.
    """
    runtime = Runtime(model)
    with torch.no_grad():
        found = runtime.ours(inputs)
    return runtime.theirs(inputs, outputs, found)


def _fed(model: OnnxGraph, inputs: Sequence[Tensor]) -> dict[str, Proto]:
    return {v.name: to_proto(x, v.name) for v, x in zip(model.inputs, inputs, strict=True)}


# --- node by node -------------------------------------------------------------------------------------------


def _check_nodes(runtime: Runtime, inputs: Sequence[Tensor]) -> None:
    """Run each node on the values that onnxruntime has.

    Raises `VerificationError` for the first that gives something else.
    """
    model = runtime.model
    piece = next(runtime.pieces(inputs))
    with torch.no_grad():
        env = model.run(piece, None, everything=True)
        wanted = [o for n in model.nodes for o in n.outputs if o and o in env]
        probe = _with_outputs(model.proto, wanted)
        theirs = dict(zip(wanted, session(probe)(wanted, _fed(model, piece)), strict=True))
        there = env | {name: theirs[name] for name in wanted if isinstance(env[name], Tensor)}
        for node in model.nodes:
            _check_node(model, node, there, theirs)
        if model.batch is not None:
            _check_batch(runtime, inputs)


def _check_node(model: OnnxGraph, node: Node, env: Mapping[str, Any], theirs: Values) -> None:
    given = model.arguments(node, env)
    results = zip(node.outputs, model.call(node, given), strict=False)
    ours = {name: as_output(name, value) for name, value in results if name in theirs}
    bad = [name for name, value in ours.items() if not _same_op(value, value, theirs[name])]
    exact = _in_float64(model, node, given) if bad else {}
    for name in bad:
        value = ours[name]
        if not _same_op(value, exact.get(name, value), theirs[name]):
            raise VerificationError(
                f"{node} gives another value in torch (shape {tuple(value.shape)}) than in onnxruntime "
                f"(shape {tuple(theirs[name].shape)}): {distance_told(value, theirs[name])}. The model was "
                "not pruned; please report the op and its attributes"
            )


def _in_float64(model: OnnxGraph, node: Node, given: Sequence[Any]) -> dict[str, Tensor]:
    """The node's results without the rounding of float32, where its ops can be run so."""
    wide = [v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for v in given]
    try:
        return {n: as_output(n, v) for n, v in zip(node.outputs, model.call(node, wide), strict=False)}
    except InputError:
        return {}


def _same_op(ours: Tensor, exact: Tensor, theirs: Tensor) -> bool:
    """Whether two tensors are equal up to rounding, element by element.

    The difference is within a share of the element and of the value's usual size, or of what rounding
    explains.
    """
    if ours.shape != theirs.shape or not ours.is_floating_point():
        return close(ours, theirs)
    a, b, rounded = exact.double(), theirs.double(), ours.double()
    finite = b.isfinite() & rounded.isfinite()
    if not torch.equal(b.isfinite(), rounded.isfinite()):
        return False
    size, apart = b[finite].abs(), (a - b)[finite].abs()
    if not size.numel():
        return True
    usual = _usual_size(b[finite])
    rounding = min(float((rounded - a)[finite].abs().max()), _UNEXPLAINED * usual)
    least = _ROUNDINGS * (rounding + torch.finfo(ours.dtype).eps)  # of sigmoids, which are sums with one half
    return bool((apart <= _TOLERANCE[ours.dtype] * (size + usual) + least).all())


def _usual_size(value: Tensor) -> float:
    """The largest number, but for a few that are far beyond the rest, such as those of masks."""
    size = value[value != 0].abs()
    return min(float(size.max()), _TYPICAL * float(size.median())) if size.numel() else 0.0


def _check_batch(runtime: Runtime, inputs: Sequence[Tensor]) -> None:
    """That several batches of the file at once give what each gives alone."""
    whole = runtime.ours(inputs, everything=True)
    alone = [runtime.model.run(piece, None, everything=True) for piece in runtime.pieces(inputs)]
    for node in runtime.model.nodes:
        for name in node.outputs:
            if name not in whole:
                continue
            found = runtime._whole(name, [as_output(name, part[name]) for part in alone], whole)
            if found.shape != whole[name].shape or distance(whole[name].float(), found) > 1e-2:
                raise VerificationError(
                    f"{node} mixes samples: the file fixes the batch at {runtime.model.batch}, and with more "
                    f"samples its value, shape {tuple(whole[name].shape)}, is not that of each. Export the "
                    "model with a free batch"
                )


def _beyond_spread(
    runtime: Runtime, inputs: Sequence[Tensor], names: Sequence[str], ours: Values, theirs: Values
) -> list[str]:
    """What to say where outputs differ by far more than onnxruntime's do with and without optimisation."""
    optimised = runtime.theirs(inputs, names, ours, session(runtime.model.proto, optimised=True))
    for name in names:
        apart, spread = distance(ours[name], theirs[name]), distance(optimised[name], theirs[name])
        if apart > max(_UNEXPLAINED, _SPREADS * spread):
            return [
                f"the output {name!r} differs from onnxruntime's, though every node gives the same on its "
                f"values: {distance_told(ours[name], theirs[name])}, where onnxruntime's own are "
                f"{spread:.3g} apart with and without optimisation. The model was not pruned; please report "
                "it"
            ]
    return []


def _with_outputs(proto: Proto, names: Sequence[str]) -> Proto:
    """The model with these values as outputs, too."""
    import onnx

    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    there = {o.name for o in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    return probe


def check_written(before: Proto, after: Proto) -> None:
    """By ONNX's own full check, where the model that was read passes it, too."""
    import onnx

    try:
        onnx.checker.check_model(serialized(before), full_check=True)
    except Exception:
        # there is nothing to hold it against: shapes of some types (bfloat16) are not inferred, for one
        return
    try:
        onnx.checker.check_model(serialized(after), full_check=True)
    except Exception as error:
        raise VerificationError(
            f"the smaller ONNX model is not valid: {_short(error)}. This is a fault in secateur; please "
            "report it"
        ) from error


def inference_session(proto: Proto, optimised: bool = True, *, spin: bool = True) -> Any:
    """The model in onnxruntime; `InputError` where that refuses it.

    `spin`: whether its threads wait actively for the next run, and so take time from other sessions.
    """
    require_packages("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if not spin:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = serialized(proto)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"onnxruntime refuses the model: {_short(error)}") from error


def session(proto: Proto, optimised: bool = False) -> Any:
    """A function (names of outputs, inputs as ONNX tensors) → tensors."""
    try:
        made = inference_session(proto, optimised)
    except InputError:
        if not _lacks_kernels(proto):
            raise
        return _reference(proto)

    def run(outputs: list[str], inputs: dict[str, Proto]) -> list[Tensor]:
        import onnx.numpy_helper

        try:
            found = made.run(outputs, {name: onnx.numpy_helper.to_array(t) for name, t in inputs.items()})
        except Exception as error:
            raise InputError(f"onnxruntime cannot run the model: {_short(error)}") from error
        return [torch.from_numpy(np.array(value)) for value in found]

    return run


def serialized(proto: Proto) -> bytes:
    size = proto.ByteSize()
    if size > LIMIT:
        raise InputError(
            f"the model has {size:,} bytes with its weights; models of more than {LIMIT:,} cannot be run"
        )
    return bytes(proto.SerializeToString())


def _lacks_kernels(proto: Proto) -> bool:
    """onnxruntime has next to no bfloat16 on CPUs, and no recurrent layers whose batch comes first."""
    batch_first = any(
        n.op_type in RECURRENT and any(a.name == "layout" and a.i for a in n.attribute)
        for n in proto.graph.node
    )
    return (
        batch_first
        or any(t.data_type == 16 for t in proto.graph.initializer)
        or any(v.type.tensor_type.elem_type == 16 for v in proto.graph.input)
    )


def _reference(proto: Proto) -> Any:
    import onnx.numpy_helper
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(proto)

    def run(outputs: list[str], inputs: dict[str, Proto]) -> list[Tensor]:
        found = evaluator.run(outputs, {name: onnx.numpy_helper.to_array(t) for name, t in inputs.items()})
        return [to_torch(onnx.numpy_helper.from_array(np.asarray(value))) for value in found]

    return run


def close(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    if not ours.is_floating_point():
        return torch.equal(ours.long(), theirs.long())
    return distance(ours, theirs) <= _TOLERANCE[ours.dtype]


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, in shares of the largest value; NaN and infinity are at their like only."""
    a, b = ours.detach().double(), theirs.double()
    finite = b.isfinite()
    if not torch.equal(finite, a.isfinite()):
        return float("inf")
    a, b = torch.where(finite, a, 0.0), torch.where(finite, b, 0.0)
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-3)) if a.numel() else 0.0


def distance_told(ours: Tensor, theirs: Tensor) -> str:
    if ours.shape != theirs.shape:
        return "the shapes differ"
    finite = theirs.isfinite() & ours.isfinite()
    apart = (ours.double() - theirs.double())[finite].abs()
    most = float(apart.max()) if apart.numel() else float("inf")
    return f"they are up to {most:.3g} apart, {distance(ours, theirs):.3g} of the largest value"


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300]
