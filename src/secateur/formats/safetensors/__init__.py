"""Weights of a model in a `.safetensors` file."""
