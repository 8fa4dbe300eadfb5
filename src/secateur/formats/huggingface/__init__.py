"""Hugging Face folders in and out: `config.json` with weights in `*.safetensors` files.

The classes are those of `transformers` (an optional package). No code of a folder is run, no pickle is read,
and nothing is fetched.
"""
