"""The command line. One file a command; `entry.py` lists them, `options.py` holds the options that several
take.

Help and errors of usage import nothing slow: a command imports torch and what it works with inside its
function.
"""

from secateur.cli.entry import app, main

__all__ = ["app", "main"]
