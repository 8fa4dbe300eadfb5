"""Every public name has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import inspect

import pytest

import secateur


def is_documented_by_example(name: str) -> bool:
    """Errors and the version are documented by their text alone."""
    value = getattr(secateur, name)
    return callable(value) and not (inspect.isclass(value) and issubclass(value, Exception))


NAMES = [name for name in secateur.__all__ if name != "__version__" and is_documented_by_example(name)]
FINDER = doctest.DocTestFinder(recurse=False)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.FAIL_FAST


def examples(name: str) -> list[doctest.DocTest]:
    found = FINDER.find(getattr(secateur, name), name, globs={name: getattr(secateur, name)})
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", NAMES)
def test_the_example_runs(name: str) -> None:
    found = examples(name)
    assert found, "the docstring has no example"
    runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
    said = list[str]()
    for test in found:
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)
