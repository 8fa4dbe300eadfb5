"""The facts of runs from the files that they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from secateur.certify.certificate import Certificate
from secateur.certify.sampled import StatisticalCertificate
from secateur.certify.statement import Statement
from secateur.errors import InputError
from secateur.evaluate.report import Evaluation
from secateur.page.facts import Facts, joined
from secateur.page.from_certificate import certificate_facts
from secateur.page.from_evaluation import evaluation_facts
from secateur.page.from_quantization import quantization_facts
from secateur.page.from_recipe import printed_facts, recipe_facts
from secateur.page.from_sampled import sampled_facts
from secateur.page.from_statement import statement_facts
from secateur.report.quantization import Quantization
from secateur.report.recipe import Recipe
from secateur.report.record import first_problem

_LARGEST = 2**28  # bytes
Content = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """A kind of file: the keys of its JSON object, and how it is read: (path, content, name) → facts."""

    what: str
    keys: tuple[str, ...]
    read: Callable[[Path, Content, str], Facts]


def _recipe(path: Path, content: Content, name: str) -> Facts:
    return recipe_facts(Recipe.load(path), name, str(path))


def _certificate(path: Path, content: Content, name: str) -> Facts:
    return certificate_facts(Certificate.load(path), name)


def _sampled(path: Path, content: Content, name: str) -> Facts:
    return sampled_facts(StatisticalCertificate.load(path), name)


def _statement(path: Path, content: Content, name: str) -> Facts:
    return statement_facts(Statement.load(path), name)


def _evaluation(path: Path, content: Content, name: str) -> Facts:
    return evaluation_facts(Evaluation.model_validate(content), name)


def _quantization(path: Path, content: Content, name: str) -> Facts:
    record = {key: value for key, value in content.items() if key != "output"}
    return quantization_facts(Quantization.model_validate(record), name)


def _pruning(path: Path, content: Content, name: str) -> Facts:
    return printed_facts(content, name)


KINDS = (
    Kind("a recipe", ("steps", "groups", "result"), _recipe),
    Kind("a certificate", ("input_set", "lower", "upper"), _certificate),
    Kind("a statistical certificate", ("distribution", "confidence", "overall"), _sampled),
    Kind("an equivalence statement", ("method_text", "claims", "not_covered"), _statement),
    Kind("what evaluate --json printed", ("samples", "head", "cost"), _evaluation),
    Kind("what quantize --json printed", ("scheme", "stages", "digest"), _quantization),
    Kind("what prune --json printed", ("recipe", "units", "parameters", "macs"), _pruning),
)


def facts_of_files(paths: Sequence[str | Path]) -> list[Facts]:
    """The facts of one or several runs.

    A recipe begins a run; the files after it (an evaluation, a certificate, …) belong to it, until another
    recipe, or a second file of a kind, begins the next one.

    Raises:
        InputError, RecipeError: A file cannot be read, or is none that secateur writes.
    """
    runs: list[Facts] = []
    kinds: set[str] = set()
    names = [Path(path).name for path in paths]
    for path, name in zip(map(Path, paths), names, strict=True):
        kind, facts = _read(path, name if names.count(name) == 1 else str(path))
        if not runs or kind is KINDS[0] or kind.what in kinds:
            runs.append(facts)
            kinds = set()
        else:
            runs[-1] = joined(runs[-1], facts)
        kinds.add(kind.what)
    return runs


def _read(path: Path, name: str) -> tuple[Kind, Facts]:
    content = _content(path)
    for kind in KINDS:
        if all(key in content for key in kind.keys):
            try:
                return kind, kind.read(path, content, name)
            except ValidationError as error:
                raise InputError(f"{path} is not {kind.what}: {first_problem(error)}") from error
            except (TypeError, ValueError, LookupError, ArithmeticError) as error:
                if isinstance(error, InputError):
                    raise
                raise InputError(f"{path} is not {kind.what}: {error}") from error
    raise InputError(f"{path} is none of the files of a run: {'; '.join(kind.what for kind in KINDS)}")


def _content(path: Path) -> Content:
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{path} has more than {_LARGEST >> 20} MiB; it is no file of a run")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no JSON; give files that secateur has written") from error
    return content if isinstance(content, dict) else {}
