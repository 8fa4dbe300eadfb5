"""Pages that show files of the repository, the help of a command or the table of ops as they are.

<!-- include: PATH -->, <!-- include: PATH # HEADING --> (one section), <!-- help: COMMAND -->,
<!-- ops -->, <!-- keras layers -->.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"SECURITY.md": "security.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def on_page_markdown(markdown: str, page: Any, **more: Any) -> str:
    folder = posixpath.dirname(page.file.src_uri)
    markdown = re.sub(
        r"<!-- include: (\S+?)(?: # (.+?))? -->", lambda m: _included(m[1], m[2], folder), markdown
    )
    markdown = re.sub(r"<!-- help: (\S+) -->", lambda m: _help(m[1]), markdown)
    markdown = re.sub("<!-- keras layers -->", lambda m: _keras_layers(), markdown)
    return re.sub("<!-- ops -->", lambda m: _ops(), markdown)


def _included(path: str, heading: str | None, folder: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".py"):
        return f"```python\n{text}```\n"
    if heading:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        if not text:
            raise ValueError(f"{path} has no section {heading!r}")
    return re.sub(r"\]\((?!https?:|#)([^)#]+)", lambda m: f"]({_moved(m[1], folder)}", text)


def _moved(link: str, folder: str) -> str:
    """A link of a file in the root, seen from a page in `folder` of docs/."""
    return posixpath.relpath(PAGES.get(link) or link.removeprefix("docs/"), folder or ".")


def _ops() -> str:
    from secateur.support import COLUMNS, as_markdown, support

    return as_markdown(COLUMNS, support())


def _keras_layers() -> str:
    from secateur.formats.keras.support import COLUMNS, keras_support
    from secateur.support import as_markdown

    return as_markdown(COLUMNS, keras_support())


def _help(name: str) -> str:
    import typer.main  # imported here: pages that only include files need no secateur

    from secateur.cli import app

    found: Any = typer.main.get_command(app)
    command = found.commands[name]
    settings = {"terminal_width": 98, "help_option_names": ["-h", "--help"]}
    context = command.context_class(command, info_name=f"secateur {name}", **settings)
    return f"```text\n{command.get_help(context)}\n```\n"
