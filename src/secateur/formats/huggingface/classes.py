"""The classes of transformers for a folder, built without code of the folder, the network, or a surprise.

A class is first built on the meta device, where tensors have shapes and no memory, and compared with the
headers of the files.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.errors import InputError, few
from secateur.formats.huggingface.folder import CONFIG, Folder
from secateur.formats.huggingface.headers import refuse
from secateur.graph.export import first_line
from secateur.torch_state import ALONE

# How a model is run is ours to say; some values of these keys name code that would be fetched.
_RUNNING = (
    "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
    "experts_implementation", "_experts_implementation", "fusion_config", "kernel_config",
    "use_kernels", "distributed_config", "tp_plan", "transformers_weights", "torch_dtype", "dtype",
    "output_attentions", "output_hidden_states", "use_cache", "return_dict", "torchscript",
)  # fmt: skip
# Keys that say how many layers there are, and those that say how large something is.
_DEPTHS = ("layers", "n_layer", "depth", "depths", "blocks", "stages")  # how such keys end
_WIDTHS = (
    "hidden_size", "intermediate_size", "d_model", "d_ff", "d_kv", "dim", "n_embd", "n_inner", "embed_dim",
    "hidden_dim", "ffn_dim", "head_dim", "vocab_size", "projection_dim", "num_attention_heads", "num_heads",
    "n_head", "n_heads", "num_key_value_heads", "type_vocab_size", "num_labels", "num_channels",
    "num_mel_bins", "image_size", "patch_size", "window_size", "num_experts", "num_local_experts",
)  # fmt: skip
_POSITIONS = (
    "max_position_embeddings", "n_positions", "n_ctx", "max_source_positions", "max_target_positions",
)  # fmt: skip
_ROTARY = ("rope_theta", "rope_parameters", "rope_scaling", "rotary_pct")
_LEAST = 1 << 22  # numbers that buffers may hold in any case


def require_transformers() -> Any:
    """The package. Raises `InputError` where it is not installed."""
    try:
        with offline():
            import transformers
    except ImportError as error:
        raise InputError(
            f"Hugging Face folders need transformers: pip install 'secateur[hf]' ({error})"
        ) from error
    return transformers


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is fetched inside, whatever the environment says."""
    from huggingface_hub import constants

    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def quiet() -> Iterator[Any]:
    """transformers, offline and silent; torch's random numbers go on as before."""
    transformers = require_transformers()
    talk = transformers.utils.logging
    with ALONE, offline(), torch.random.fork_rng(devices=[]), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verbosity, bars = talk.get_verbosity(), talk.is_progress_bar_enabled()
        talk.set_verbosity(talk.CRITICAL)
        talk.disable_progress_bar()
        try:
            yield transformers
        finally:
            talk.set_verbosity(verbosity)
            if bars:
                talk.enable_progress_bar()


def class_of(transformers: Any, folder: Folder) -> type[nn.Module]:
    """The class that `architectures` names, else the plain one of the family; always one of transformers."""
    names = folder.config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        refuse(folder.path / CONFIG, f"architectures is {names!r}; it must be a list of names of classes")
    if names:
        found = getattr(transformers, names[0], None) if names[0].isidentifier() else None
    else:
        found = transformers.MODEL_MAPPING.get(_config_class(transformers, folder), None)
    if not (isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)):
        named = names[0] if names else folder.family
        refuse(
            folder.path / CONFIG,
            f"transformers {transformers.__version__} has no class {named!r}. A newer one may have it; code "
            "of the folder is not run",
        )
    return found


def config_of(transformers: Any, folder: Folder) -> Any:
    """The configuration as an object of transformers, set so that outputs are named and nothing is cached."""
    kind = _config_class(transformers, folder)
    try:
        config = kind.from_dict(_without(folder.config, _RUNNING))
    except Exception as error:  # a wrong value fails in as many ways as there are keys
        refuse(folder.path / CONFIG, f"transformers refuses it: {_told(error)}")
    for part in _objects(config):
        part.use_cache = False
        part.return_dict = True
    return config


def _config_class(transformers: Any, folder: Folder) -> Any:
    if folder.family not in transformers.CONFIG_MAPPING:
        refuse(
            folder.path / CONFIG,
            f"transformers {transformers.__version__} does not know the family {folder.family!r}. A newer "
            "one may; code of the folder is not run",
        )
    return transformers.CONFIG_MAPPING[folder.family]


def _objects(config: Any) -> list[Any]:
    """The configuration and those inside of it."""
    inner = [value for value in vars(config).values() if hasattr(value, "model_type")]
    return [config, *(part for one in inner for part in _objects(one))]


def _without(config: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {
        key: _without(value, names) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in names
    }


# --- before anything is allocated ---------------------------------------------------------------------------


def check_sizes(folder: Folder, kind: type[nn.Module], config: Any) -> None:
    """Raise `InputError` where the class asks for more than the files hold.

    Its tensors are made on the meta device and take no memory.
    """
    try:
        with torch.device("meta"):
            empty: Any = kind(config)
        empty.tie_weights()
    except Exception as error:
        refuse(folder.path / CONFIG, f"{kind.__name__} cannot be built from it: {first_line(error)}")
    held = sum(stored.count for stored in folder.tensors.values())
    asked = sum(p.numel() for p in empty.parameters() if p.requires_grad)  # others may be computed
    if asked > held:
        refuse(
            folder.path / CONFIG,
            f"asks for a {kind.__name__} of {asked:,} weights, and the files hold {held:,} numbers; they do "
            "not belong together, or files are missing",
        )
    beside = sum(b.numel() for b in empty.buffers())
    if beside > max(_LEAST, 4 * held):
        refuse(
            folder.path / CONFIG,
            f"asks for {beside:,} numbers beside the weights, and the files hold {held:,}; one of its sizes "
            "is wrong",
        )


def check_numbers(folder: Folder) -> None:
    """Raise `InputError` for sizes in `config.json` for which even an empty class would take memory."""
    _check_part(folder, folder.config, sum(stored.count for stored in folder.tensors.values()))


def _check_part(folder: Folder, config: Mapping[str, Any], held: int) -> None:
    tensors, rotary = len(folder.tensors), any(key in config for key in _ROTARY)
    for key, value in config.items():
        if isinstance(value, dict):
            _check_part(folder, value, held)
        for number in value if isinstance(value, list) else [value]:
            if type(number) is not int:
                continue
            most = tensors if key.endswith(_DEPTHS) else held if key in _WIDTHS else number
            if key in _POSITIONS:
                most = number if rotary else held // _width(config)
            if number > max(most, 64):
                refuse(
                    folder.path / CONFIG,
                    f"{key} is {number:,}, and the files hold {tensors:,} tensors of {held:,} numbers in "
                    "all; they do not belong together",
                )


def _width(config: Mapping[str, Any]) -> int:
    """How many numbers a table of positions has for each of them."""
    found = [config.get(key) for key in ("hidden_size", "d_model", "n_embd", "dim")]
    return max((n for n in found if type(n) is int and n > 0), default=1)


# --- with values --------------------------------------------------------------------------------------------


def built(
    transformers: Any, folder: Folder, kind: Any, config: Any, state: dict[str, Tensor]
) -> tuple[Any, tuple[str, ...]]:
    """The class with the tensors of `state`, by their names in files, in eval mode; and names it did not use.

    The module takes the memory of these tensors where they are of its type. Raises `InputError` for tensors
    that are missing or of another shape.
    """
    attention = "sdpa" if getattr(kind, "_supports_sdpa", False) else "eager"
    try:
        network, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        told = _told(error)
        raise InputError(f"{folder.path}: {kind.__name__} does not take these weights: {told}") from error
    missing = sorted(map(str, info["missing_keys"]))
    if missing:
        refuse(
            folder.path,
            f"the files lack {few(missing)}, which {kind.__name__} needs; transformers would fill them with "
            "random numbers. Name the class that the weights belong to under architectures in config.json",
        )
    return network.eval(), tuple(sorted(map(str, info["unexpected_keys"])))


def _told(error: Exception) -> str:
    """An error of transformers in a line; it lists tensors of other shapes one by one."""
    return " ".join(str(error).split())[:300] or type(error).__name__
