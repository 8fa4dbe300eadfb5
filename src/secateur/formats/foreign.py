"""Files of other formats: what each is, and the command, or the few lines, that make a file which secateur
reads.

`FOREIGN` has a row for each. In its texts {path}, {folder} and {new} stand for the file, its folder, and the
file to write; {path_text} where they stand in code.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from secateur.errors import InputError
from secateur.formats.content import kind_by_content


@dataclass(frozen=True)
class Foreign:
    """A format that is not read: its name, the suffixes of its files, and the way to one that is."""

    name: str
    suffixes: tuple[str, ...]
    way: str
    new: str = ".onnx"  # suffix of the file to write


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
        "Where "
        "torch.load refuses it, the file holds a whole model; where that is made, write it by "
        "torch.export.save(torch.export.export(model.eval(), (example,)), 'model.pt2')",
        ".safetensors",
    ),
    "tflite": Foreign(
        "a TensorFlow Lite model",
        (".tflite", ".lite"),
        "Convert it (pip install tf2onnx tensorflow):\n"
        "    python -m tf2onnx.convert --tflite {path} --output {new} --opset 17",
    ),
    "savedmodel": Foreign(
        "a TensorFlow SavedModel",
        (),
        "Convert it (pip install tf2onnx tensorflow):\n"
        "    python -m tf2onnx.convert --saved-model {folder} --output {new} --opset 17",
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
        "{new} "
        "--opset 17",
    ),
    "keras": Foreign(
        "a Keras model",
        (".keras", ".h5", ".hdf5"),
        "Convert it (pip install keras tensorflow tf2onnx):\n"
        '    python -c "import keras; keras.models.load_model({path_text}).export({new_text}, '
        "format='onnx')\"",
    ),
    "coreml": Foreign(
        "a Core ML model",
        (".mlmodel",),
        "Convert it (pip install coremltools onnxmltools):\n"
        '    python -c "import coremltools, onnxmltools; '
        "onnxmltools.utils.save_model(onnxmltools.convert_coreml("
        'coremltools.utils.load_spec({path_text})), {new_text})"',
    ),
    "mlpackage": Foreign(
        "a Core ML package, which no tool converts back",
        (".mlpackage", ".mlmodelc"),
        "Prune the PyTorch or TensorFlow model that it was made from, then convert the smaller one:\n"
        "    coremltools.convert(torch.export.export(small, "
        "(example,)).run_decompositions({{}})).save({path_text})",
    ),
    "gguf": Foreign(
        "a GGUF file: weights of a language model, quantised as a rule, without a graph",
        (".gguf", ".ggml"),
        "Load it with transformers, which turns it back into floats, and prune that model:\n"
        "    from transformers import AutoModelForCausalLM\n"
        "    model = AutoModelForCausalLM.from_pretrained({folder_text}, gguf_file={file_text}).eval()",
    ),
    "huggingface": Foreign(
        "a folder of a Hugging Face model",
        (),
        "Write its graph as ONNX (pip install optimum-onnx) and give the model.onnx in the new folder:\n"
        "    optimum-cli export onnx --model {path} {stem}_onnx",
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
    ),
    "archive": Foreign(
        "an archive",
        (".tar", ".zip", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".mar", ".nemo"),
        "Unpack it and give the model in it:\n    {unpack} {path}",
    ),
    "lfs": Foreign(
        "a pointer of Git LFS and not the file itself", (), "Fetch that:\n    git lfs pull --include {path}"
    ),
    "web": Foreign(
        "a web page and not a model: the download went wrong", (), "Fetch the file again from its address"
    ),
    "arrays": Foreign(
        "an archive of arrays",
        (".npz", ".npy"),
        "Give it as data (--data, --calibration), and a model as the model",
    ),
    "folder": Foreign("a folder", (), "Give the path of the model in it, such as {path}/model.onnx"),
}

_BY_SUFFIX = {suffix: kind for kind, row in FOREIGN.items() for suffix in row.suffixes}
READ = {".pt2": "pt2", ".onnx": "onnx", ".safetensors": "safetensors"}


def kind_of(path: str | os.PathLike[str]) -> str:
    """What the file holds, as far as its first bytes tell, else as its name says; empty where neither is
    known.
    """
    path = Path(path)
    suffix, content = path.suffix.lower(), kind_by_content(path)
    if suffix == ".bin" and not content and path.with_suffix(".xml").is_file():
        return "openvino"
    if path.name == "saved_model.pb":
        return "savedmodel"
    if content == "archive" and suffix in _BY_SUFFIX:
        return _BY_SUFFIX[suffix]  # a package of its own kind
    return content or READ.get(suffix) or _BY_SUFFIX.get(suffix, "")


def refuse_foreign(path: str | os.PathLike[str]) -> str:
    """`kind_of` the file; `InputError` with the way out for formats that are not read."""
    kind = kind_of(path)
    row = FOREIGN.get(kind)
    if row is not None:
        raise InputError(f"{os.fspath(path)} is {row.name}. {_filled(row, Path(path))}")
    return kind


def _filled(row: Foreign, path: Path) -> str:
    stem = path.parent if path.name == "saved_model.pb" else path if path.is_dir() else path.with_suffix("")
    new = stem.with_name(stem.name + row.new)
    names = {
        "path": str(path),
        "folder": str(path if path.is_dir() else path.parent),
        "file": path.name,
        "stem": str(stem),
        "new": str(new if new != path else stem.with_name(f"{stem.name}_converted{row.new}")),
    }
    texts = {f"{key}_text": repr(name) for key, name in names.items()}
    return row.way.format(
        **{key: shlex.quote(name) for key, name in names.items()}, **texts, unpack=_unpack(path)
    )


def _unpack(path: Path) -> str:
    by_suffix = {
        ".zip": "unzip",
        ".mar": "unzip",
        ".gz": "gunzip",
        ".bz2": "bunzip2",
        ".xz": "unxz",
        ".7z": "7z x",
    }
    tar = ".tar" in path.suffixes or path.suffix == ".tgz"
    return "tar -xf" if tar else by_suffix.get(path.suffix.lower(), "tar -xf")
