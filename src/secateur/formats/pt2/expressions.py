"""Whether a string is an arithmetic expression of sizes: torch hands it to sympy, which evaluates it."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

SYMBOL = re.compile(r"[A-Za-z_]{1,64}[0-9]{0,6}")
_NUMBER = re.compile(r"-?[0-9.]{1,40}(e[+-]?[0-9]{1,3})?")

_SYMPY_CALLS = frozenset(
    "Add Mul Pow Mod Max Min Abs Integer Rational Float Symbol Equality Unequality LessThan GreaterThan "
    "StrictLessThan StrictGreaterThan And Or Not FloorDiv ModularIndexing Where PythonMod CleanDiv CeilDiv "
    "CeilToInt FloorToInt PowByNatural FloatTrueDiv IntTrueDiv TruncToInt TruncToFloat RoundToInt ToFloat "
    "Identity".split()
)
_SYMPY_POWERS = frozenset(("Pow", "PowByNatural"))
_SYMPY_FLAGS = frozenset(
    "positive integer nonnegative negative nonpositive real rational zero nonzero finite even odd".split()
)
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitAnd, ast.BitOr)
_QUOTED = {"Symbol": SYMBOL, "Float": _NUMBER}  # calls whose only argument is a text of that form
_EXPRESSION_LIMIT = 4096  # characters
_POWER_LIMIT = 4  # powers in one expression, each of at most 8


def expression(value: str) -> str:
    """Empty for sizes as torch writes them, and for plain arithmetic on names; else why it is refused.

    torch writes `Mul(Integer(2), Symbol('s7', integer=True))`.
    """
    why = "is not an arithmetic expression of sizes, and would be evaluated"
    if len(value) > _EXPRESSION_LIMIT or value.count("**") + value.count("Pow") > _POWER_LIMIT:
        return why
    if not re.fullmatch(r"[A-Za-z0-9_ .,+\-*/()='<>!&|~]*", value):
        return why
    try:
        return "" if _is_arithmetic(ast.parse(value, mode="eval").body) else why
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return why


def _is_arithmetic(node: ast.expr, depth: int = 24) -> bool:
    def below(*children: ast.expr) -> bool:
        return depth > 0 and all(_is_arithmetic(child, depth - 1) for child in children)

    match node:
        case ast.Constant(value=value):
            return _is_finite_number(value)
        case ast.Name(id=name):
            return bool(SYMBOL.fullmatch(name)) and (name in ("true", "false") or name[-1].isdigit())
        case ast.UnaryOp(op=ast.USub() | ast.Invert(), operand=operand):
            return below(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _is_small_power(right) and below(left)
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _OPERATORS) and below(left, right)
        case ast.Compare(left=left, comparators=[right]):
            return below(left, right)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in _SYMPY_CALLS:
            return all(map(_is_flag, keywords)) and _is_call(name, args, below)
    return False


def _is_call(name: str, args: list[ast.expr], below: Callable[..., bool]) -> bool:
    """Whether the arguments are those that the call may have; `below` judges plain ones."""
    if name in _QUOTED:
        return _is_quoted(args, _QUOTED[name])
    if name in _SYMPY_POWERS:
        return len(args) == 2 and _is_small_power(args[1]) and below(args[0])
    return below(*args)


def _is_finite_number(value: object) -> bool:
    return isinstance(value, bool) or (isinstance(value, int | float) and abs(value) < 2**63)


def _is_flag(keyword: ast.keyword) -> bool:
    match keyword.value:
        case ast.Constant(value=None | bool()):
            return keyword.arg in _SYMPY_FLAGS
        case ast.Constant(value=int() as bits):
            return keyword.arg == "precision" and 0 < bits <= 1024
    return False


def _is_quoted(args: list[ast.expr], pattern: re.Pattern[str]) -> bool:
    match args:
        case [ast.Constant(value=str() as text)]:
            return bool(pattern.fullmatch(text))
    return False


def _is_small_power(node: ast.expr) -> bool:
    match node:
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]):
            return _is_small_power(inner)
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return _is_small_power(inner)
        case ast.Constant(value=int() as number):
            return number <= 8  # a tower of powers would be evaluated for ever
    return False
