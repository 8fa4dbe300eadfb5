"""What the commands that train networks on a processor or a GPU have in common."""

from __future__ import annotations

import argparse
from pathlib import Path


def arguments(description: str | None, module: str, names: str) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`; `names` says what naming networks does."""
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        prog=f"python -m {module}",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=names)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the packages")
    parser.add_argument("--device", default="cpu")
    return parser
