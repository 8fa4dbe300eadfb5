"""What can be set about the refit."""

from __future__ import annotations

from dataclasses import dataclass

from secateur.options import AtLeast0, Count, Share


@dataclass(frozen=True)
class Settings:
    """Options of `reconstruct`.

    `ridge`: λ of the refit, relative to the mean second moment of a layer's inputs. `repair`: how much of the
    variance that a refit loses before a batch norm is given back. `robust`: radius of the adversarial
    perturbations that a second refit sees beside the samples, in input units; 0: none. `rows`: positions of a
    convolution that its moments are taken from, at least; of a grouped one 128 for each feature where that is
    less.
    """

    ridge: AtLeast0 = 0.01
    repair: Share = 0.5
    robust: AtLeast0 = 0.0
    rows: Count = 10_000
