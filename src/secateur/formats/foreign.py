"""Formats that are not read: what a file is, and how to make one that secateur reads of it.

`FOREIGN` has a row for each. In its texts {path}, {folder} and {new} stand for the file, its folder, and the
file to write; {path_text} where they stand in code.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from secateur.formats.content import Content


def _never(content: Content) -> bool:
    return False


def _is_zipped_package(content: Content) -> bool:
    return "Manifest.json" in content.names and any("com.apple.CoreML" in name for name in content.names)


@dataclass(frozen=True)
class Foreign:
    """A format that is not read: its name, the suffixes of its files, and the way to one that is."""

    name: str
    suffixes: tuple[str, ...]
    way: str
    new: str = ".onnx"  # suffix of the file to write
    matches: Callable[[Content], bool] = _never  # whether a file is one, by its content


_PICKLES = tuple(bytes((0x80, protocol)) for protocol in (2, 3, 4, 5))
_ARCHIVES = (b"\x1f\x8b", b"7z\xbc\xaf\x27\x1c", b"BZh", b"\xfd7zXZ\x00")

# Of several rows that match, the first counts.
FOREIGN: dict[str, Foreign] = {
    "torchscript": Foreign(
        "a TorchScript file, which has code and weights and no graph that can be captured",
        (".torchscript", ".ptl", ".jit"),
        "Write it as ONNX once (torch.jit.load runs code from the file: only where you trust it):\n"
        "    import torch\n"
        "    scripted = torch.jit.load({path_text}, map_location='cpu').eval()\n"
        "    torch.onnx.export(scripted, (example,), {new_text}, dynamo=False, input_names=['input'], "
        "dynamic_axes={{'input': {{0: 'batch'}}}})\n"
        "or, with its Python class at hand, give its weights to that: "
        "model.load_state_dict(scripted.state_dict())",
        matches=lambda c: "data.pkl" in c.names and any(name.startswith("code/") for name in c.names),
    ),
    "pickle": Foreign(
        "a pickle, and unpickling can run any code; it is refused",
        (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"),
        "Write its weights as .safetensors once:\n"
        "    import torch, safetensors.torch\n"
        "    state = torch.load({path_text}, map_location='cpu', weights_only=True)\n"
        "    dicts = [state] + [v for v in state.values() if isinstance(v, dict)]  # 'state_dict', 'model'…\n"
        "    dicts += [w for v in dicts[1:] for w in v.values() if isinstance(w, dict)]\n"
        "    state = max(dicts, key=lambda d: sum(map(torch.is_tensor, d.values())))\n"
        "    state = {{k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in state.items() "
        "if torch.is_tensor(v)}}\n"
        "    safetensors.torch.save_file(state, {new_text})\n"
        "and give them with a function that builds the model: package.module:factory and weights={new_text}. "
        "Where torch.load refuses it, the file holds a whole model; where that is made, write it by "
        "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')",
        ".safetensors",
        matches=lambda c: "data.pkl" in c.names or c.starts(*_PICKLES),
    ),
    "tflite": Foreign(
        "a TensorFlow Lite model",
        (".tflite", ".lite"),
        "Convert it (pip install tf2onnx tensorflow):\n"
        "    python -m tf2onnx.convert --tflite {path} --output {new} --opset 17",
        matches=lambda c: c.starts(b"TFL3", offset=4),
    ),
    "savedmodel": Foreign(
        "a TensorFlow SavedModel",
        (),
        "Convert it (pip install tf2onnx tensorflow):\n"
        "    python -m tf2onnx.convert --saved-model {folder} --output {new} --opset 17",
        matches=lambda c: c.in_folder("saved_model.pb"),
    ),
    "graphdef": Foreign(
        "a frozen graph of TensorFlow",
        (".pb", ".pbtxt"),
        "Convert it, with the names of its inputs and outputs (pip install tf2onnx tensorflow):\n"
        "    python -m tf2onnx.convert --graphdef {path} --inputs INPUT:0 --outputs OUTPUT:0 --output {new} "
        "--opset 17",
    ),
    "checkpoint": Foreign(
        "a checkpoint of TensorFlow",
        (".meta", ".index", ".data-00000-of-00001"),
        "Convert it, with the names of its inputs and outputs (pip install tf2onnx tensorflow):\n"
        "    python -m tf2onnx.convert --checkpoint {stem}.meta --inputs INPUT:0 --outputs OUTPUT:0 --output "
        "{new} --opset 17",
    ),
    "coreml": Foreign(
        "a Core ML model",
        (".mlmodel",),
        "Convert it (pip install coremltools onnxmltools):\n"
        '    python -c "import coremltools, onnxmltools; '
        "onnxmltools.utils.save_model(onnxmltools.convert_coreml("
        'coremltools.utils.load_spec({path_text})), {new_text})"',
        matches=lambda c: c.fields.get(1) == 0 and any(number >= 200 for number in c.fields),
    ),
    "mlpackage": Foreign(
        "a Core ML package, which no tool converts back",
        (".mlpackage", ".mlmodelc"),
        "Prune the PyTorch or TensorFlow model that it was made from, then convert the smaller one:\n"
        "    coremltools.convert(torch.export.export(small, "
        "(example,)).run_decompositions({{}})).save({path_text})",
        matches=lambda c: c.in_folder("Manifest.json") or _is_zipped_package(c),
    ),
    "gguf": Foreign(
        "a GGUF file: weights of a language model, quantised as a rule, without a graph",
        (".gguf", ".ggml"),
        "Load it with transformers, which turns it back into floats, and prune that model:\n"
        "    from transformers import AutoModelForCausalLM\n"
        "    model = AutoModelForCausalLM.from_pretrained({folder_text}, gguf_file={file_text}).eval()",
        matches=lambda c: c.starts(b"GGUF", b"ggml"),
    ),
    "openvino": Foreign(
        "an OpenVINO model",
        (".xml",),
        "Convert it (pip install openvino2onnx):\n    openvino2onnx {stem}.xml",
    ),
    "paddle": Foreign(
        "a PaddlePaddle model",
        (".pdmodel", ".pdiparams", ".pdparams"),
        "Convert it (pip install paddle2onnx), with the names of its two files:\n"
        "    paddle2onnx --model_dir {folder} --model_filename inference.pdmodel --params_filename "
        "inference.pdiparams --save_file {new}",
        matches=lambda c: c.in_folder("*.pdmodel"),
    ),
    "caffe": Foreign(
        "a Caffe model",
        (".caffemodel", ".prototxt"),
        "Convert it (pip install caffe2onnx):\n"
        "    python -m caffe2onnx.convert --prototxt {stem}.prototxt --caffemodel {stem}.caffemodel --onnx "
        "{new}",
    ),
    "tensorrt": Foreign(
        "a TensorRT engine, built for one GPU, which no tool converts back",
        (".engine", ".plan", ".trt"),
        "Prune the ONNX model that it was built from, then build it again:\n"
        "    trtexec --onnx=small.onnx --saveEngine={path}",
    ),
    "built": Foreign(
        "built for one runtime, and no tool converts it back",
        (".ort", ".pte", ".rknn", ".dlc", ".hef", ".mnn", ".tmfile", ".blob", ".om", ".param"),
        "Prune the model that it was built from, and build it again from the smaller one:\n"
        "    secateur prune original.onnx -o small.onnx",
        matches=lambda c: c.starts(b"ORTM", b"ET12", offset=4),
    ),
    "arrays": Foreign(
        "an archive of arrays",
        (".npz", ".npy"),
        "Give it as data (--data, --calibration), and a model as the model",
        matches=lambda c: bool(c.records) and all(name.endswith(".npy") for name in c.records or ()),
    ),
    "archive": Foreign(
        "an archive",
        (".tar", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".mar", ".nemo"),
        "Unpack it and give the model in it:\n    {unpack} {path}",
        matches=lambda c: c.records is not None or c.starts(*_ARCHIVES) or c.starts(b"ustar", offset=257),
    ),
    "lfs": Foreign(
        "a pointer of Git LFS and not the file itself",
        (),
        "Fetch that:\n    git lfs pull --include {path}",
        matches=lambda c: c.starts(b"version https://git-lfs"),
    ),
    "web": Foreign(
        "a web page and not a model: the download went wrong",
        (),
        "Fetch the file again from its address",
        matches=lambda c: c.starts(b"<!DOCTYPE html", b"<html"),
    ),
    "folder": Foreign(
        "a folder",
        (),
        "Give the path of the model in it, such as {path}/model.onnx",
        matches=lambda c: c.is_folder,
    ),
}

BY_SUFFIX = {suffix: kind for kind, row in FOREIGN.items() for suffix in row.suffixes}


def way_out(kind: str, path: Path) -> str:
    """What the file is, and what to do with it."""
    row = FOREIGN[kind]
    names = {key: str(value) for key, value in _places(row, path).items()}
    quoted = {key: shlex.quote(name) for key, name in names.items()}
    in_code = {f"{key}_text": repr(name) for key, name in names.items()}
    return f"{path} is {row.name}. {row.way.format(**quoted, **in_code, unpack=_unpack(path))}"


def _places(row: Foreign, path: Path) -> dict[str, Path | str]:
    """What stands for the fields in the text of a row."""
    stem = path if path.is_dir() else path.with_suffix("")
    if path.name == "saved_model.pb":
        stem = path.parent
    new = stem.with_name(stem.name + row.new)
    if new == path:
        new = stem.with_name(f"{stem.name}_converted{row.new}")
    folder = path if path.is_dir() else path.parent
    return {"path": path, "folder": folder, "file": path.name, "stem": stem, "new": new}


def _unpack(path: Path) -> str:
    tar = ".tar" in path.suffixes or path.suffix == ".tgz"
    return "tar -xf" if tar else _UNPACK.get(path.suffix.lower(), "tar -xf")


# fmt: off
_UNPACK = {
    ".zip": "unzip", ".mar": "unzip", ".gz": "gunzip", ".bz2": "bunzip2", ".xz": "unxz", ".7z": "7z x",
}
# fmt: on
