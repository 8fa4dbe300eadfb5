"""Latency after a removal: layers are measured, a sum predicts, whole networks correct it."""
