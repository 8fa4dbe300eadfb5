"""Prune pre-trained networks without data and without retraining; keep them accurate and hard to fool.

Names are imported on first use, so that `import secateur` takes milliseconds and not the seconds of torch.
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from secateur.certify import Certificate, certify
    from secateur.certify.checking import check_certificate
    from secateur.certify.sampled import StatisticalCertificate
    from secateur.certify.statement import Statement, equivalence_statement
    from secateur.certify.statistical import certify_by_sampling
    from secateur.errors import (
        CaptureError,
        InputError,
        NothingToPruneError,
        RecipeError,
        SecateurError,
        StopPruning,
        TargetMissedError,
        UnsupportedOpError,
        VerificationError,
    )
    from secateur.evaluate.attacks import APGD, FGSM, PGD, AutoAttack
    from secateur.evaluate.corruptions import Corruption
    from secateur.evaluate.latency import Latency, latency
    from secateur.evaluate.measure import evaluate
    from secateur.evaluate.report import Evaluation
    from secateur.formats.models import load_model, save_model
    from secateur.inputs import InputSpec
    from secateur.prune import inspect, prune
    from secateur.quantize import quantize
    from secateur.quantize.result import Quantized
    from secateur.replay import replay
    from secateur.report.recipe import Recipe
    from secateur.report.verdict import Verdict
    from secateur.result import HistoryRow, Result
    from secateur.search import search
    from secateur.search.result import SearchResult, SweepResult
    from secateur.search.sweep import sweep

    __version__: str

__all__ = [
    "APGD",
    "FGSM",
    "PGD",
    "AutoAttack",
    "CaptureError",
    "Certificate",
    "Corruption",
    "Evaluation",
    "HistoryRow",
    "InputError",
    "InputSpec",
    "Latency",
    "NothingToPruneError",
    "Quantized",
    "Recipe",
    "RecipeError",
    "Result",
    "SearchResult",
    "SecateurError",
    "Statement",
    "StatisticalCertificate",
    "StopPruning",
    "SweepResult",
    "TargetMissedError",
    "UnsupportedOpError",
    "Verdict",
    "VerificationError",
    "__version__",
    "certify",
    "certify_by_sampling",
    "check_certificate",
    "equivalence_statement",
    "evaluate",
    "inspect",
    "latency",
    "load_model",
    "prune",
    "quantize",
    "replay",
    "save_model",
    "search",
    "sweep",
]

# Module → what it defines of `__all__`; the same as the imports above, which type checkers and editors read.
_NAMES = {
    "certify": "Certificate certify",
    "certify.checking": "check_certificate",
    "certify.sampled": "StatisticalCertificate",
    "certify.statement": "Statement equivalence_statement",
    "certify.statistical": "certify_by_sampling",
    "errors": "CaptureError InputError NothingToPruneError RecipeError SecateurError StopPruning "
    "TargetMissedError UnsupportedOpError VerificationError",
    "evaluate.attacks": "APGD FGSM PGD AutoAttack",
    "evaluate.corruptions": "Corruption",
    "evaluate.latency": "Latency latency",
    "evaluate.measure": "evaluate",
    "evaluate.report": "Evaluation",
    "formats.models": "load_model save_model",
    "inputs": "InputSpec",
    "prune": "inspect prune",
    "quantize": "quantize",
    "quantize.result": "Quantized",
    "replay": "replay",
    "report.recipe": "Recipe",
    "report.verdict": "Verdict",
    "result": "HistoryRow Result",
    "search": "search",
    "search.result": "SearchResult SweepResult",
    "search.sweep": "sweep",
}
_HOMES = {name: f"secateur.{module}" for module, names in _NAMES.items() for name in names.split()}


def _attribute(name: str) -> Any:
    """A public name, imported now; or a module of the package, as `secateur.formats`."""
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    elif name == "__version__":
        value = import_module("importlib.metadata").version("secateur")
    elif not name.startswith("_") and find_spec(f"secateur.{name}"):
        return import_module(f"secateur.{name}")
    else:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    globals()[name] = value
    return value


class _Package(ModuleType):
    """`secateur.certify` is the function of that name, whatever imports the module `secateur.certify` when:
    the import system sets a module as an attribute of its package, and would put it in the function's place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOMES or value is not sys.modules.get(f"secateur.{name}"):
            super().__setattr__(name, value)


if not TYPE_CHECKING:  # or any name would do for a type checker
    __getattr__ = _attribute


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
