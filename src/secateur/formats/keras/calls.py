"""The calls of a model's layers in an order in which they can be run, as files of Keras 2 and 3 say them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any

from secateur.errors import InputError
from secateur.formats.keras.spec import Json, Spec

KERAS_TENSOR = "__keras_tensor__"
_MOST_CALLS = 100_000


@dataclass(frozen=True)
class Ref:
    """An output of a call: of which layer, of its how manieth call, which of its outputs."""

    layer: str
    call: int
    output: int

    def __str__(self) -> str:
        return f"output {self.output} of call {self.call} of {self.layer!r}"


@dataclass(frozen=True, eq=False)
class Call:
    """A layer run on arguments, in which values stand as `Ref`."""

    layer: str
    index: int
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def key(self) -> tuple[str, int]:
        return self.layer, self.index

    def refs(self) -> list[Ref]:
        return list(refs_in([self.args, self.kwargs]))


def refs_in(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, list | dict):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from refs_in(inner)


def filled(value: Any, values: Mapping[tuple[str, int], Sequence[Any]]) -> Any:
    """The arguments with what the calls gave."""
    if isinstance(value, Ref):
        return values[value.layer, value.call][value.output]
    if isinstance(value, list):
        return [filled(inner, values) for inner in value]
    if isinstance(value, dict):
        return {key: filled(inner, values) for key, inner in value.items()}
    return value


def functional_calls(specs: Sequence[Spec]) -> list[Call]:
    """All calls of a functional model, in an order in which each comes after those that it needs.

    Raises `InputError` for references to nothing, and for loops.
    """
    calls = [call for spec in specs for call in _calls_of(spec)]
    known = {call.key for call in calls}
    shifted = _counted_from_one(calls, known)
    calls = [_moved(call, shifted) for call in calls] if shifted else calls
    for call in calls:
        for ref in call.refs():
            if (ref.layer, ref.call) not in known:
                raise InputError(f"layer {call.layer!r} is run on {ref}, which is not in the model")
    return _sorted(calls)


def _calls_of(spec: Spec) -> Iterator[Call]:
    nodes = spec.raw.get("inbound_nodes", [])
    if spec.kind == "InputLayer":
        yield Call(spec.name, 0, [], {})
        return
    if not isinstance(nodes, list) or len(nodes) > _MOST_CALLS:
        spec.refuse("has no list of calls (inbound_nodes)")
    for index, node in enumerate(nodes):
        if isinstance(node, dict) and isinstance(node.get("args", []), list):
            args, kwargs = _with_refs(node.get("args", []), spec), _with_refs(node.get("kwargs") or {}, spec)
        elif isinstance(node, list):
            args, kwargs = _of_keras_2(node, spec)
        else:
            spec.refuse(f"has a call that cannot be read: {str(node)[:60]}")
        if not isinstance(kwargs, dict):
            spec.refuse("has named arguments without names")
        yield Call(spec.name, index, args, kwargs)


def _with_refs(value: Any, spec: Spec) -> Any:
    if isinstance(value, list):
        return [_with_refs(inner, spec) for inner in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") != KERAS_TENSOR:
        return {key: _with_refs(inner, spec) for key, inner in value.items()}
    config = value.get("config")
    return ref_of(config.get("keras_history") if isinstance(config, dict) else None, str(spec))


def ref_of(history: Any, where: str) -> Ref:
    """`["conv", 0, 0]` as a reference."""
    if is_history(history):
        return Ref(*history[:3])
    raise InputError(f"{where} is run on {str(history)[:60]}, which is no output of a layer")


def is_history(value: Any) -> bool:
    """Whether this is a reference as the file writes it."""
    return (
        isinstance(value, list)
        and len(value) in (3, 4)
        and isinstance(value[0], str)
        and all(type(n) is int and n >= 0 for n in value[1:3])
    )


def _of_keras_2(node: list[Any], spec: Spec) -> tuple[list[Any], Json]:
    """`[["conv", 0, 0, {}], ["other", 0, 0, {}]]`; one value stands alone, several in a list."""
    found = [ref_of(part, str(spec)) for part in node]
    kwargs: Json = node[0][3] if node and len(node[0]) == 4 else {}
    if not isinstance(kwargs, dict):
        spec.refuse("has named arguments without names")
    named = {k: ref_of(v, str(spec)) if is_history(v) else v for k, v in kwargs.items()}
    return [found[0] if len(found) == 1 else found], named


def _counted_from_one(calls: Sequence[Call], known: set[tuple[str, int]]) -> set[str]:
    """Models in a model whose calls are counted from 1, since building them was the first."""
    missing = {ref.layer for call in calls for ref in call.refs() if (ref.layer, ref.call) not in known}
    return {name for name in missing if (name, 0) in known}


def _moved(call: Call, shifted: set[str]) -> Call:
    def move(value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(value.layer, value.call - 1, value.output) if value.layer in shifted else value
        if isinstance(value, list):
            return [move(inner) for inner in value]
        return {key: move(inner) for key, inner in value.items()} if isinstance(value, dict) else value

    return Call(call.layer, call.index, move(call.args), move(call.kwargs))


def _sorted(calls: list[Call]) -> list[Call]:
    """In the order of the file, as far as that goes. Cost: linear in references, but for a logarithm."""
    needed = [{(ref.layer, ref.call) for ref in call.refs()} for call in calls]
    readers = dict[tuple[str, int], list[int]]()
    for place, keys in enumerate(needed):
        for key in keys:
            readers.setdefault(key, []).append(place)
    ready = [place for place, keys in enumerate(needed) if not keys]  # in order, and so a heap
    found = list[Call]()
    while ready:
        call = calls[heappop(ready)]
        found.append(call)
        for place in readers.get(call.key, ()):
            needed[place].discard(call.key)
            if not needed[place]:
                heappush(ready, place)
    if len(found) != len(calls):
        rest = next(call for call, keys in zip(calls, needed, strict=True) if keys)
        raise InputError(f"layer {rest.layer!r} is run on its own output: the model has a loop")
    return found


def structure_refs(value: Any, where: str) -> list[Ref]:
    """The references of `input_layers` or `output_layers` in any nesting, in Keras' order: keys sorted."""
    if is_history(value):
        return [ref_of(value, where)]
    if isinstance(value, list | dict):
        inner = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
        return [ref for part in inner for ref in structure_refs(part, where)]
    raise InputError(f"{where} names {str(value)[:60]}, which is no output of a layer")
