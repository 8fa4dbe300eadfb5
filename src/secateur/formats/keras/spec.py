"""One layer as the file describes it: its class, its name and its configuration, each read with a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from secateur.errors import InputError, UnsupportedOpError

Json = dict[str, Any]
LARGEST = 2**31  # of a number that is a size
_OWN = ("keras", "tf_keras", "tensorflow")  # packages whose classes the table means
_CODE = {
    "Lambda": "holds a Python function, which would have to be run",
    "TFSMLayer": "loads a SavedModel, which holds code",
    "TorchModuleWrapper": "holds a pickled module of torch",
    "JaxLayer": "holds a function of JAX",
    "FlaxLayer": "holds a module of Flax",
}


@dataclass(frozen=True, eq=False)
class Spec:
    """A layer of the file. Errors name it."""

    kind: str  # key of the table
    name: str
    config: Json
    raw: Json  # the whole entry
    keras_2: bool = False  # whether Keras 2 wrote it

    def __str__(self) -> str:
        return f"layer {self.name!r} ({self.kind})"

    def refuse(self, why: str) -> NoReturn:
        raise InputError(f"{self} {why}")

    def unsupported(self, why: str) -> NoReturn:
        raise UnsupportedOpError(f"{self} {why}")

    # --- entries of the configuration -----------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """The entry, tuples as lists."""
        return unpacked(self.config.get(key, default))

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.get(key, default)
        if value is not None and not isinstance(value, bool):
            self.refuse(f"has {key}={_told(value)}, which is no truth value")
        return bool(value)

    def number(self, key: str, default: float = 0.0) -> float:
        value = self.get(key, default)
        value = default if value is None else value
        if isinstance(value, dict):  # a number of NumPy
            value = value.get("config", {}).get("value") if isinstance(value.get("config"), dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
            self.refuse(f"has {key}={_told(value)}, which is no number")
        return float(value)

    def whole(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if not _is_whole(value):
            self.refuse(f"has {key}={_told(value)}, which is no whole number from 0 to {LARGEST:,}")
        return int(value)

    def wholes(self, key: str, count: int, default: int = 1) -> tuple[int, ...]:
        """As many whole numbers; one stands for all."""
        value = self.get(key, default)
        value = default if value is None else value
        found = list(value) if isinstance(value, list | tuple) else [value] * count
        if len(found) != count or not all(map(_is_whole, found)):
            self.refuse(f"has {key}={_told(value)}; expected {count} whole numbers")
        return tuple(map(int, found))

    def pairs(self, key: str, count: int, default: int = 1) -> tuple[tuple[int, int], ...]:
        """(before, after) for as many axes; one number stands for both."""
        value = self.get(key, default)
        found = list(value) if isinstance(value, list | tuple) else [value] * count
        if count == 1 and len(found) == 2 and all(map(_is_whole, found)):
            found = [found]
        found = [list(p) if isinstance(p, list | tuple) else [p, p] for p in found]
        if len(found) != count or not all(len(p) == 2 and all(map(_is_whole, p)) for p in found):
            self.refuse(f"has {key}={_told(value)}; expected {count} pairs of whole numbers")
        return tuple((int(a), int(b)) for a, b in found)

    def choice(self, key: str, allowed: Sequence[str], default: str) -> str:
        value = self.get(key, default)
        value = default if value is None else value
        if value not in allowed:
            self.unsupported(f"has {key}={_told(value)}; there are rules for {', '.join(allowed)}")
        return str(value)

    def axes(self, key: str, default: Any = -1) -> tuple[int, ...]:
        value = self.get(key, default)
        found = list(value) if isinstance(value, list | tuple) else [value]
        if not all(type(n) is int and -32 <= n < 32 for n in found) or not found:
            self.refuse(f"has {key}={_told(value)}, which is no axis")
        return tuple(found)

    def sizes(self, key: str) -> tuple[int, ...]:
        """A shape, in which one size may be −1."""
        value = self.get(key)
        found = value if isinstance(value, list) else [value]
        if not all(type(n) is int and -1 <= n <= LARGEST for n in found) or not found:
            self.refuse(f"has {key}={_told(value)}, which is no shape")
        return tuple(found)

    @property
    def channels_last(self) -> bool:
        return (
            self.choice("data_format", ("channels_last", "channels_first"), "channels_last")
            != "channels_first"
        )


def unpacked(value: Any) -> Any:
    """Tuples of the file as lists."""
    if isinstance(value, dict) and value.get("class_name") == "__tuple__":
        value = value.get("items")
    return [unpacked(v) for v in value] if isinstance(value, list) else value


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _told(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def spec_of(raw: Any, keras_2: bool = False) -> Spec:
    """The description of a layer, checked. Classes that are not Keras' own get a kind that says so."""
    if not isinstance(raw, dict) or not isinstance(raw.get("class_name"), str):
        raise InputError(f"the model holds {_told(raw)} in place of a layer")
    config = raw.get("config")
    if not isinstance(config, dict):
        raise InputError(f"a layer of class {raw['class_name'][:60]!r} has no configuration")
    name = raw.get("name") or config.get("name") or raw["class_name"]
    if not isinstance(name, str) or not 0 < len(name) <= 256:
        raise InputError(f"a layer is called {_told(name)}, which is no name")
    spec = Spec(_kind(raw), name, config, raw, keras_2)
    if raw["class_name"] in _CODE:
        spec.unsupported(f"{_CODE[raw['class_name']]}. It is never run; build the model without it")
    _check_policy(spec)
    return spec


def _kind(raw: Json) -> str:
    """The class, or what it was registered as where it is not Keras' own."""
    kind, module, registered = str(raw["class_name"]), raw.get("module"), raw.get("registered_name")
    own = module is None or str(module).split(".")[0] in _OWN
    if own and registered in (None, kind):
        return f"ops.{kind}" if ".ops" in str(module) else kind
    return str(registered) if registered and ">" in str(registered) else f"{module}>{kind}"


def _check_policy(spec: Spec) -> None:
    """Refuse quantised layers. Of mixed precision the variables' own type is computed in."""
    policy = spec.config.get("dtype")
    if isinstance(policy, dict):
        policy = policy.get("class_name") if "Quant" in str(policy.get("class_name")) else ""
    quantised = "int8" in str(policy) or "Quant" in str(policy) or "float8" in str(policy)
    if quantised or spec.config.get("quantization_config") or spec.config.get("lora_rank"):
        spec.unsupported(
            "is quantised or has LoRA weights. Prune the float model, then quantise the smaller one"
        )
