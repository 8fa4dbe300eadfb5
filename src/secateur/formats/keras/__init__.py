"""Keras in and out: read a `.keras` or `.h5` file into a torch module, and write it back smaller.

Neither Keras nor TensorFlow is needed, and nothing that a file holds is unpickled, imported or run.
"""
