"""ONNX in and out: read a file into a torch module, check it against onnxruntime, write it back smaller."""
