"""What `prune` was asked for: every argument checked and parsed once, before any work."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.export import ExportedProgram

from secateur import arguments as may
from secateur import memory, pace
from secateur.arguments import Rule
from secateur.data.pixels import colours_last
from secateur.data.tokenizer import read_tokenizer
from secateur.decisions import HEADS, Head
from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.guard import Guard
from secateur.inputs import Normalisation
from secateur.methods import METHODS, Method, as_method, method_named
from secateur.plan import AUTO, REMOVE, Allocation, Attention, Rounding, Target
from secateur.presets import PRESETS
from secateur.report.recipe import RecordedRequest
from secateur.samples import Calibration, Surrogate, name_of
from secateur.surrogates import SURROGATES
from secateur.types import Tokenizer

_AT_MOST = 0.5  # default of `remove` under a guard, which says how far to go
NO_SURROGATE = "none"  # own inputs alone, however few


@dataclass(frozen=True)
class Request:
    """The arguments of `prune` as the run uses them; see there for what each means."""

    remove: float | str | None
    target: Target | None  # `remove`, parsed; None where all goes that can, or nobody said how much
    method: Method  # with its options
    input_bounds: Any  # of what the model itself takes
    normalisation: Normalisation
    declared: bool  # whether it was said how images are normalised, if only that they are not
    surrogate: Surrogate
    calibration: Calibration | None
    tokenizer: Tokenizer | None
    samples: int
    memory: int  # bytes that the run may take beside the model
    budget: float | None  # seconds that it may take
    allocation: Allocation
    attention: Attention
    streams: bool
    budgets: Mapping[str, float | str]
    guard: Guard | None
    head: Head
    step: float
    recursive: bool
    exact_first: bool
    ignore: tuple[str | nn.Module, ...]
    round_to: Rounding
    uniform_layers: bool
    seed: int
    device: torch.device | None
    callbacks: tuple[Callable[..., None], ...]
    progress: bool
    resume: Path | None = None  # the folder of the checkpoint

    @staticmethod
    def parse(**given: Any) -> Request:
        """Raises `InputError` naming the first argument that cannot be used, its value and what it may be."""
        values = may.checked(RULES, given)
        method: Method = values["method"].with_options(values["options"] or {})
        mean, std, name = (values.pop(argument) for argument in ("mean", "std", "normalize"))
        normalisation = Normalisation.named(name, values["input_bounds"], mean or (), std or ())
        budgets, head = _budgets(values.pop("guard"), values["head"])
        own, tokenizer = values["calibration"], values["tokenizer"]
        if own is None and values["surrogate"] == NO_SURROGATE:
            raise InputError(
                f"surrogate={NO_SURROGATE!r} leaves no samples; give inputs of your own (calibration=)"
            )
        guard = Guard.parse(budgets, own is not None)
        remove = _amount(values["remove"], method, guarded=guard is not None)
        target = None if remove in (None, AUTO) else Target.parse(remove)
        if target is not None and target.quantity == "latency" and values.get("resume") is not None:
            raise InputError(
                f"resume: remove={remove!r} is measured, and a run that goes on would measure other times; "
                "ask for a share of the multiply-accumulates, such as 'macs=30%'"
            )
        _check_streams(values, method)
        del values["options"]
        values |= {
            "method": method,
            "remove": remove,
            "target": target,
            "normalisation": normalisation,
            "declared": bool(normalisation or name),
            "head": head,
            "calibration": None if own is None else Calibration(own, values["input_bounds"], tokenizer),
            "tokenizer": None if tokenizer is None else read_tokenizer(tokenizer),
            "budgets": budgets,
            "guard": None if method.lossless else guard,
            "exact_first": values["exact_first"] and not method.lossless,
            "memory": values["memory"] or memory.default_memory(),
            "step": values["step"] or method.default_step(guarded=guard is not None),
        }
        return Request(**values)

    def bounds_of(self, graph: Graph) -> Any:
        """The legal range of what the model itself takes.

        Raises `InputError` where mean and std are not those of as many channels as its first input has.
        """
        shape = tuple(graph.example[0].shape[1:]) or (1,)
        self.normalisation.check(shape[-1] if colours_last(shape) else shape[0])
        return self.normalisation.box(self.input_bounds, shape)

    @property
    def needs_samples(self) -> bool:
        """Whether units are chosen, or layers refitted, on samples."""
        return self.method.needs == "samples" or (self.allocation == "global" and not self.method.lossless)

    def recorded(self, ignored: Sequence[str], bounds: Any) -> RecordedRequest:
        """As the recipe keeps it: `ignored` as globs, `bounds` those of what the model itself takes."""
        return RecordedRequest(
            remove="all" if self.remove is None else str(self.remove),
            method=self.method.name,
            options=dict(self.method.options_set),
            step=self.step,
            recursive=self.recursive,
            ignore=tuple(ignored),
            round_to=self.round_to,
            uniform_layers=self.uniform_layers,
            input_bounds=may.plain_bounds(bounds),
            mean=self.normalisation.mean,
            std=self.normalisation.std,
            seed=self.seed,
            surrogate=name_of(self.surrogate),
            samples=self.samples,
            budget=self.budget,
            allocation=self.allocation,
            attention=self.attention,
            streams=self.streams,
            guard=dict(self.budgets),
            head=self.head,
            exact_first=self.exact_first,
        )

    def ignored(self, model: nn.Module | ExportedProgram) -> tuple[str, ...]:
        """The globs of `ignore`, modules replaced by one that matches their tensors."""
        return tuple(
            part if isinstance(part, str) else pattern
            for part in self.ignore
            for pattern in ([part] if isinstance(part, str) else _patterns(model, part))
        )


def _amount(given: float | str | None, method: Method, guarded: bool) -> float | str | None:
    """How much to remove; `AUTO` where that is to be found, None for all that can go."""
    if given is None:
        return _AT_MOST if guarded and method.remove == AUTO else method.remove
    if isinstance(given, str) and given.strip() == AUTO:
        if guarded:
            raise InputError(
                "remove='auto' has a budget of its own; say how much to remove at most under the guard, or "
                "let a search find the largest share within a budget"
            )
        return AUTO
    return given


def _check_streams(values: Mapping[str, Any], method: Method) -> None:
    """Streams are cut by the default method, in the order of their principal directions."""
    for argument, wrong, advice in (
        ("method", not method.cuts_streams, "reconstruct"),
        ("allocation", values["allocation"] != "uniform", "uniform"),
        ("exact_first", values["exact_first"], False),
    ):
        if values["streams"] and wrong:
            given = method.name if argument == "method" else values[argument]
            raise InputError(f"streams: cannot be cut with {argument}={given!r}; use {argument}={advice!r}")


def _budgets(given: Mapping[str, float | str] | None, head: Head) -> tuple[dict[str, float | str], Head]:
    """The guard's budgets, and what the outputs are: the guard's own `head` takes precedence."""
    budgets = dict(given or {})
    head = cast(Head, budgets.get("head", head))
    if budgets and head != "auto":
        budgets["head"] = head
    return budgets, head


def _patterns(model: nn.Module | ExportedProgram, module: nn.Module) -> list[str]:
    named = model.named_modules(remove_duplicate=False) if isinstance(model, nn.Module) else ()
    names = [name for name, part in named if part is module]
    if not names:
        raise InputError(
            f"ignore: a {type(module).__name__} that is no part of the model; give modules of the model "
            "itself, or "
            "globs over layer names (`secateur inspect` lists them)"
        )
    return [f"{glob.escape(name)}.*" if name else "*" for name in names]


def _as_surrogate(value: Any) -> Surrogate:
    if isinstance(value, str) and value not in (*SURROGATES, NO_SURROGATE):
        raise InputError(
            f"surrogate={value!r}: there are {', '.join(SURROGATES)}, and {NO_SURROGATE} beside calibration; "
            "or give a function"
        )
    if not isinstance(value, str) and not callable(value):
        raise ValueError
    surrogate: Surrogate = value
    return surrogate


def _as_method(value: Any) -> Method:
    return method_named(value) if isinstance(value, str) else as_method(value)


def _as_ignored(value: Any) -> tuple[str | nn.Module, ...]:
    parts = (value,) if isinstance(value, str | nn.Module) else tuple(value)
    if not all(isinstance(part, str | nn.Module) for part in parts):
        raise ValueError
    return parts


def _as_rounding(value: Any) -> Rounding:
    return AUTO if isinstance(value, str) and value == AUTO else may.whole(1, "").parse(value)


def _as_callbacks(value: Any) -> tuple[Callable[..., None], ...]:
    found = (value,) if callable(value) else tuple(value)
    if not all(map(callable, found)):
        raise ValueError
    return found


def _as_path(value: Any) -> str:
    path = os.fspath(value)
    if not isinstance(path, str) or not path:  # an unset variable of a shell would mean the current folder
        raise ValueError
    return path


def _as_folder(value: Any) -> Path:
    found = Path(may.PATH.parse(value))
    if found.is_file() or not found.parent.is_dir():
        raise ValueError
    return found


def _as_calibration(value: Any) -> Any:
    if (
        isinstance(value, str) and not value
    ):  # as an unset variable of a shell; it would mean the current folder
        raise ValueError
    if isinstance(value, str | Iterable) or any(hasattr(value, name) for name in _INPUTS):
        return value
    raise ValueError


_INPUTS = (
    "__fspath__",
    "__array__",
    "keys",
    "__dataclass_fields__",
)  # what paths, arrays, mappings, dataclasses have


_PAIRS = "a dict of names and values"
RULES: dict[str, Rule] = {
    "remove": may.optional(
        Rule(
            REMOVE,
            lambda value: value,
        )
    ),
    "method": Rule(f"one of {', '.join(METHODS)}, or a secateur.methods.Method", _as_method),
    "options": may.optional(may.instance(Mapping, _PAIRS)),
    "input_bounds": may.BOUNDS,
    "mean": may.MEAN,
    "std": may.STD,
    "normalize": may.optional(may.one_of(*PRESETS)),
    "surrogate": Rule(
        f"one of {', '.join(SURROGATES)}, {NO_SURROGATE} beside calibration, or a function "
        "(source, count) → inputs",
        _as_surrogate,
    ),
    "calibration": may.optional(
        Rule(
            "a tensor of inputs, batches of them, or the path of a folder of images, an image, an .npz, an "
            ".npy "
            "or a .txt file",
            _as_calibration,
        )
    ),
    "tokenizer": may.optional(
        Rule("the path of a tokenizer's file, or of the folder that holds it", _as_path)
    ),
    "samples": may.whole(1, "a whole number of inputs, at least 1"),
    "memory": may.optional(Rule(memory.MAY_BE, memory.as_bytes)),
    "budget": may.optional(Rule(pace.MAY_BE, pace.as_seconds)),
    "allocation": may.one_of("uniform", "global"),
    "attention": may.one_of("auto", "heads", "widths", "both"),
    "streams": may.flag(),
    "guard": may.optional(may.instance(Mapping, _PAIRS)),
    "head": may.one_of(*HEADS),
    "step": may.optional(
        may.number("the share of a group's units to remove at a time, above 0 and up to 1", above=0, high=1)
    ),
    "recursive": may.flag(),
    "exact_first": may.flag(),
    "ignore": Rule("a glob over layer names, a list of globs, or modules of the model", _as_ignored),
    "round_to": Rule("a whole number of units, at least 1, or 'auto'", _as_rounding),
    "uniform_layers": may.flag(),
    "seed": may.SEED,
    "device": may.DEVICE,
    "resume": may.optional(Rule("the path of a folder, in one that exists", _as_folder)),
    "callbacks": Rule("a list of functions of a HistoryRow", _as_callbacks),
    "progress": may.flag(),
}
