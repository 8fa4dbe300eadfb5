"""onnxruntime's quantisers, kept from changing what is global: log settings and the path of imports."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from secateur.formats.onnx.read import require_packages


@contextmanager
def quantizers() -> Iterator[None]:
    """A block in which parts of onnxruntime are imported and called; what they log is not shown.

    One of them configures the root logger when it is imported. Another adds a folder to `sys.path`, once, and
    modules that are imported in a later block need it there, too.
    """
    require_packages("onnx", "onnxruntime")
    root, path = logging.getLogger(), list(sys.path)
    handlers, level = list(root.handlers), root.level
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    package = find_spec("onnxruntime.transformers")
    sys.path += package.submodule_search_locations or [] if package else []
    try:
        yield
    finally:
        logging.disable(before)
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.path[:] = path
