"""Units that can leave without any change of the function over the input box, and what makes up for them.

Each function of `FINDERS` looks for one reason in one group; `secateur.debloat` applies and checks what they
find.
"""

from __future__ import annotations

from collections.abc import Callable

from secateur.methods.exact.alike import alike
from secateur.methods.exact.constant import constant
from secateur.methods.exact.dependent import dependent
from secateur.methods.exact.finding import Finding, removal_of
from secateur.methods.exact.problem import ExactProblem, bounded, make_problem
from secateur.methods.exact.unread import unread
from secateur.types import Group

__all__ = ["FINDERS", "ExactProblem", "Finding", "bounded", "make_problem", "removal_of", "unread"]

# in the order in which they are asked
FINDERS: tuple[Callable[[ExactProblem, Group], Finding | None], ...] = (constant, alike, dependent)
