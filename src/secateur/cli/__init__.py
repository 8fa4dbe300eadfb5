"""The command line. Each command has a file; `entry.py` lists them, `options.py` has shared options.

Help and errors of usage import nothing slow: a command imports torch and what it works with inside its
function.
"""

from secateur.cli.entry import app, main

__all__ = ["app", "main"]
