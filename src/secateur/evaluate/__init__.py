"""Measure a model: accuracy, agreement with the original, robustness under attack and corruption, and cost.

`measure` holds `evaluate`. Nothing is imported here, since the command line makes its help from the attacks
and the corruptions, without torch.
"""
