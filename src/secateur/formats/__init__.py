"""Models and data in and out of files. Nothing here unpickles, compiles or evaluates what a file holds."""

from secateur.formats.arrays import load_arrays
from secateur.formats.torch import load_factory, load_model, load_program, save_program

__all__ = ["load_arrays", "load_factory", "load_model", "load_program", "save_program"]
