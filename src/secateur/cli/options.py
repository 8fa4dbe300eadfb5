"""Arguments and options that several commands take. What a single command takes stands above its function.

A new option is a type here or there, and a parameter of the function. Its help text says what it is, its
format and default, and what happens if it is wrong or missing; its `rich_help_panel` is the group of the help
that shows it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from secateur.cli.names import Head, Surrogate
from secateur.formats.registry import described, listed, suffixes_read, suffixes_written

COMMON = "Common options"
INPUTS = "Inputs of the model (or in net.yaml, a file next to net.onnx)"
OUTPUT = "Output and other options"
FIDELITY = "Fidelity (how closely the smaller model follows the original)"

# Parts of help texts.
MODEL_FILE = (
    f"a file that ends in {listed(suffixes_read())}, a Hugging Face folder, or package.module:function"
)
IMAGES = (
    "a folder, an .npy file, or an .npz file with the array images (uint8, or floats in the range of "
    "--input-bounds)"
)


def weights_of(model: str) -> Any:
    """An option for the weights of a second model, by the name of that model on the command line."""
    text = f"Weights for {model}, a .safetensors file, if {model} is package.module:function."
    return Option(metavar="PATH", rich_help_panel=COMMON, help=text)


Model = Annotated[
    str,
    Argument(
        metavar="MODEL",
        help=f"Model to read: a file ({described(suffixes_read())}), a Hugging Face folder (config.json and "
        ".safetensors files), or package.module:function, where the "
        "function returns an nn.Module (its weights: --weights).",
    ),
]
ModelOutput = Annotated[
    Path,
    Option(
        "--output",
        "-o",
        metavar="PATH",
        rich_help_panel=COMMON,
        help=f"File for the smaller model. The ending chooses the format: {described(suffixes_written())}. "
        "Without such an ending: a folder, if MODEL is one.",
    ),
]
Weights = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help="Weights for package.module:function, a .safetensors file. Default: the weights that the "
        "function sets. Files of models hold their own weights and refuse this option.",
    ),
]

# --- inputs of the model ------------------------------------------------------------------------------------

Shapes = Annotated[
    list[str] | None,
    Option(
        "--example-shape",
        metavar="SHAPE",
        rich_help_panel=INPUTS,
        help="Shape of one input without the batch axis, e.g. 3,32,32; for integer inputs with the dtype, "
        "e.g. 16:int64. Repeat it if the model has several inputs. Default: the shape stored in the file; "
        "required where none is stored.",
    ),
]
InputBounds = Annotated[
    str | None,
    Option(
        "--input-bounds",
        metavar="LOW,HIGH",
        rich_help_panel=INPUTS,
        help="Smallest and largest legal input value, before --mean and --std are applied. Default: 0,1. "
        "Generated inputs, attacks and proofs stay in this range: if it is wrong, accuracy suffers and "
        "results do not apply.",
    ),
]
Mean = Annotated[
    str | None,
    Option(
        metavar="NUMBERS",
        rich_help_panel=INPUTS,
        help="Mean that training subtracted from each channel, e.g. 0.485,0.456,0.406, or one number for "
        "all. Default: none. If it is missing or wrong, accuracy can collapse.",
    ),
]
Std = Annotated[
    str | None,
    Option(
        metavar="NUMBERS",
        rich_help_panel=INPUTS,
        help="Standard deviation by which training divided each channel, e.g. 0.229,0.224,0.225, or one "
        "number for all. Default: none. If it is missing or wrong, accuracy can collapse.",
    ),
]
Normalize = Annotated[
    str | None,
    Option(
        metavar="NAME",
        rich_help_panel=INPUTS,
        help="Mean and standard deviation by name, in place of --mean and --std: imagenet, cifar10, "
        "minus1to1 (0.5 and 0.5), or none for a model that takes images as they are. Default: none. "
        "`secateur prune` warns if another one fits the model better.",
    ),
]
HeadOption = Annotated[
    Head,
    Option(
        "--head",
        metavar="NAME",
        rich_help_panel=INPUTS,
        help="How outputs become a prediction. logits, probabilities: the largest output wins; binary_logit: "
        "yes above 0; binary_probability: yes above 0.5; multi_label, multi_label_logits: each output is a "
        "yes or no of its own; none: no prediction, a regression; auto: inferred from the model's last "
        "layers. If it is wrong, accuracy and agreement are counted wrongly.",
    ),
]

# --- fidelity -----------------------------------------------------------------------------------------------

SurrogateOption = Annotated[
    Surrogate,
    Option(
        metavar="NAME",
        rich_help_panel=FIDELITY,
        help="Kind of inputs to generate from the model, in place of data. auto: chosen by how the model "
        "responds. shapes, mixture: drawn pictures. uniform, pink, spectrum: noise. inversion, bn_inversion: "
        "optimised for the model. bn_moments: noise with the statistics of batch norm. written: text that a "
        "language model writes. ranks: tokens as frequent as in a text. No effect with "
        "--calibration.",
    ),
]
Calibration = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=FIDELITY,
        help="Inputs of your own, without labels, in place of generated ones: a folder of images, an .npy "
        "file, or an .npz file with the array images (uint8, or floats in the range of --input-bounds). They "
        "usually keep more accuracy. Of a language model, ids of tokens in an .npy file, or a .txt file (see "
        "--tokenizer). A third of them is held out for the budgets and the verdict.",
    ),
]
TokenizerFile = Annotated[
    Path | None,
    Option(
        "--tokenizer",
        metavar="PATH",
        rich_help_panel=INPUTS,
        help="Tokenizer of a language model: tokenizer.json, vocab.json (with merges.txt) or vocab.txt, or a "
        "folder that holds one. It is needed for .txt files, and tells generated inputs how frequent tokens "
        "are. "
        "Default: the one in the folder of MODEL.",
    ),
]
Memory = Annotated[
    str | None,
    Option(
        metavar="SIZE",
        rich_help_panel=FIDELITY,
        help="Memory that the run may take beside the model, e.g. 2GiB. Values that do not fit go to a "
        "scratch "
        "file or are computed again. Default: a quarter of the free memory, at least 1GiB.",
    ),
]

# --- output and other ---------------------------------------------------------------------------------------

AsJson = Annotated[
    bool,
    Option(
        "--json",
        rich_help_panel=OUTPUT,
        help="Print the result as JSON instead of a table; numbers that are not finite are the texts "
        "Infinity, -Infinity and NaN.",
    ),
]
TimeIt = Annotated[
    bool,
    Option(
        "--latency/--no-latency",
        rich_help_panel=OUTPUT,
        help="Measure the time for one sample before and after, and say so if it did not fall.",
    ),
]
Overwrite = Annotated[
    bool,
    Option(
        "--overwrite",
        rich_help_panel=OUTPUT,
        help="Replace any existing file of that name. Without this, the command replaces only a file of the "
        "kind that it writes, and stops before any work at other files.",
    ),
]
Seed = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=OUTPUT,
        help="Seed of all random numbers. The same seed and options give the same result.",
    ),
]
Device = Annotated[
    str | None,
    Option(
        metavar="DEVICE",
        rich_help_panel=OUTPUT,
        help="torch device that samples are run on, e.g. cpu or cuda. Default: cpu.",
    ),
]
Debug = Annotated[
    bool,
    Option(
        "--debug",
        rich_help_panel=OUTPUT,
        help="Show the Python traceback of a failure as well as the message.",
    ),
]
