"""Peak memory of reading, pruning and writing a decoder in a Hugging Face folder, in multiples of its size.

    python benchmarks/memory.py [--parameters 250e6] [--work DIR] [--stages read write scale reconstruct]

A Llama of random weights in bfloat16 is written to DIR, in shards, and deleted afterwards. Each stage runs
in a process of its own; what the process holds before it reads the folder (libraries, and a tiny model once)
is not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from shared import arguments, machine, markdown

SHARD = 200 * 10**6  # bytes
HEAD_WIDTH, VOCABULARY = 64, 8192
STAGES = {
    "read": "load_model(folder)",
    "write": "save_model(out, load_model(folder))",
    "scale": "save_model(out, prune(load_model(folder), method='scale', **HOW).model)",
    "reconstruct": "save_model(out, prune(load_model(folder), **HOW).model)",
}
CHILD = """
    import json, resource, sys, warnings
    import torch
    from secateur import load_model, prune, save_model
    HOW = dict(remove=0.2, uniform_layers=True, surrogate="uniform", samples=8, memory="512MiB",
               ignore="*self_attn*")
    def stage(folder, out):
        {stage}
    def peak():
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    stage(sys.argv[1], sys.argv[2] + "/tiny")
    before = peak()
    stage(sys.argv[3], sys.argv[2] + "/small")
    print(json.dumps({{"before": before, "peak": peak()}}))
"""


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--parameters", type=float, nargs="*", default=[250e6], help="sizes, about")
    parser.add_argument("--work", type=Path, help="folder for the models (default: a temporary one)")
    parser.add_argument("--stages", nargs="*", default=list(STAGES), choices=STAGES)
    options = parser.parse_args()
    rows = []
    for count in options.parameters:
        with tempfile.TemporaryDirectory(dir=options.work) as work:
            tiny = decoder(Path(work) / "tiny-llama", 1e6)
            folder = decoder(Path(work) / "llama", count)
            size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
            for stage in options.stages:
                taken = measured(stage, tiny, folder, Path(work) / stage)
                rows.append([f"{size / 2e6:,.0f} M", stage, f"{taken / 2**20:,.0f}", f"{taken / size:.2f}"])
                print(*rows[-1], file=sys.stderr, flush=True)
    print(json.dumps(machine()))
    print(markdown(["parameters", "stage", "MiB", "× its size in bfloat16"], rows))


def measured(stage: str, tiny: Path, folder: Path, out: Path) -> int:
    """Bytes that a stage takes at most, beside what the process held before."""
    out.mkdir()
    code = textwrap.dedent(CHILD).format(stage=STAGES[stage])
    shown = subprocess.run(
        [sys.executable, "-c", code, tiny, out, folder], check=True, capture_output=True, text=True
    )
    found = json.loads(shown.stdout.splitlines()[-1])
    return int(found["peak"]) - int(found["before"])


def decoder(folder: Path, parameters: float, seed: int = 0) -> Path:
    """A folder with a Llama of about as many parameters: random weights in bfloat16, in shards."""
    width = max(2, round((parameters / (16 * 12)) ** 0.5 / HEAD_WIDTH)) * HEAD_WIDTH
    layers = max(1, round((parameters - 2 * VOCABULARY * width) / (12 * width * width)))
    hidden = 8 * width // 3
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": width,
        "intermediate_size": hidden, "num_hidden_layers": layers, "num_attention_heads": width // HEAD_WIDTH,
        "num_key_value_heads": width // HEAD_WIDTH, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "tie_word_embeddings": False, "dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(seed)
    shard, places, number, total = dict[str, Tensor](), dict[str, str](), 1, 0
    for name, shape in shapes(width, hidden, layers):
        scale = 1.0 / math.sqrt(shape[-1])
        value = (
            torch.ones(shape)
            if len(shape) == 1
            else torch.empty(shape).normal_(0, scale, generator=generator)
        )
        shard[name] = value.bfloat16()
        places[name] = f"model-{number:05}.safetensors"
        total += shard[name].nbytes
        if sum(value.nbytes for value in shard.values()) > SHARD:
            save_file(shard, folder / places[name], {"format": "pt"})
            shard, number = {}, number + 1
    if shard:
        save_file(shard, folder / f"model-{number:05}.safetensors", {"format": "pt"})
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def shapes(width: int, hidden: int, layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (VOCABULARY, width)
    for layer in range(layers):
        name = f"model.layers.{layer}"
        for projection in "qkvo":
            yield f"{name}.self_attn.{projection}_proj.weight", (width, width)
        for projection in ("gate", "up"):
            yield f"{name}.mlp.{projection}_proj.weight", (hidden, width)
        yield f"{name}.mlp.down_proj.weight", (width, hidden)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{name}.{norm}.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (VOCABULARY, width)


if __name__ == "__main__":
    main()
