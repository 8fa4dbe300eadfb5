"""The model as a static graph of ATen ops, and the groups of units that must leave it together."""
