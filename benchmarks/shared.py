"""What the benchmarks share: the zoo and its test data, Markdown tables, and where results go."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from secateur.formats.arrays import load_arrays

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("SECATEUR_SHARED", ROOT.parent / "shared"))

# Radius of PGD and number of attacked images for each network of the zoo, as in its README.
PGD_RADIUS = {"fashion_cnn_robust": 0.1, "cifar_resnet20": 0.003922, "cifar_vgg11": 0.003922}
PGD_DEFAULT = 0.02


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder that holds zoo/ and data/")
    parser.add_argument("--output", type=Path, default=ROOT / "out", help="folder for the tables")
    return parser


def load_zoo(shared: Path) -> ModuleType:
    """The zoo's module; a plain message and exit code 1 where there is none."""
    path = shared / "zoo" / "zoo.py"
    if not path.is_file():
        print(f"no zoo at {path}; name the folder that holds zoo/ and data/ with --shared", file=sys.stderr)
        raise SystemExit(1)
    spec = importlib.util.spec_from_file_location("zoo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_data(zoo: ModuleType, name: str, shared: Path) -> tuple[Tensor, Tensor]:
    """Test images in [0, 1], (n, c, h, w), and labels, (n,). For reporting only: nothing is chosen by
    them.
    """
    arrays = load_arrays(shared / "data" / f"{zoo.DATA[name]}.npz")
    return arrays["images"], arrays["labels"]


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def write(folder: Path, name: str, table: str, record: Any) -> None:
    """NAME.md and NAME.json in `folder`, and the table on stdout."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(table)
    (folder / f"{name}.json").write_text(
        json.dumps({"machine": machine(), "results": record}, indent=1) + "\n"
    )
    print(table)
    print(f"wrote {folder / name}.md and .json")


def machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": platform.machine(),
    }
