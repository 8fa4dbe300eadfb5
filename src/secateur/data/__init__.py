"""Inputs in any usual form as tensors: files, folders of images, arrays, batches. Nothing here unpickles."""

from secateur.data.load import load_data
from secateur.data.tensors import as_tensors
from secateur.data.tokenizer import load_text
from secateur.data.within import check_within

__all__ = ["as_tensors", "check_within", "load_data", "load_text"]
