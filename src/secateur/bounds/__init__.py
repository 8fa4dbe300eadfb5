"""Sound bounds on what a network computes over a box of inputs, and on how far a changed network drifts from
it.
"""
