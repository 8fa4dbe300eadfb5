"""PyTorch programs in `.pt2` archives. An archive is checked and rewritten before torch sees any of it."""
