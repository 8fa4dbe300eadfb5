"""The base class of models that were read from a file of another format."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar

from torch import Tensor, fx, nn


class Imported(nn.Module, ABC):
    """A module that an importer made.

    Of a module of any other class only `forward` is used, whatever its other methods are called.

    Attributes:
        own_form: Whether the smaller model is always written by the importer, never as the rewritten graph.
    """

    own_form: ClassVar[bool] = True
    cuts_streams: ClassVar[bool] = False  # whether its smaller form can have a narrower residual stream

    @property
    @abstractmethod
    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs on which the model can be captured."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """What the file calls the inputs, in order; empty where it does not say."""
        return ()

    @abstractmethod
    def check(self, inputs: Sequence[Tensor]) -> None:
        """Raise where the module does not compute what the file says."""

    def traced(self, export: Callable[[], fx.GraphModule]) -> fx.GraphModule:
        """What `export` gives for the module; an importer may note more of it."""
        return export()
