"""Sound bounds on a network's values over a box of inputs, and on the drift of a changed network."""
