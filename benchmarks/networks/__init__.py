"""Small trained networks of many kinds: half of them to choose rules by, half to report on.

    cd benchmarks
    python -m networks --packages DIR     # trains what is not there yet, in out/networks
    python -m networks --table            # what is there

In Python, with `benchmarks/` on the path:

    >>> import networks
    >>> for name in networks.names("report"):
    ...     network = networks.load(name)
    ...     result = secateur.prune(network.model, network.example, remove=0.3, **network.options)
    ...     print(name, network.measures, network.measure(result.model))

The recipes are rows of `recipes.RECIPES`. Which half a network belongs to is the parity of the CRC-32 of its
name, so it was settled before anything was trained. Rules are chosen on the `choose` half alone.
"""

from .recipes import RECIPES, Half, Recipe
from .store import FOLDER, Network, load, names, read_index

__all__ = ["FOLDER", "RECIPES", "Half", "Network", "Recipe", "load", "names", "read_index"]
