"""Names of norms and losses."""

from __future__ import annotations

from typing import Literal

Norm = Literal["linf", "l2"]
Loss = Literal["ce", "margin", "dlr"]
Climbed = Literal["ce", "margin", "dlr", "log_odds"]  # losses in the form whose gradient is followed
