"""Prune pre-trained networks without data and without retraining; keep them accurate and hard to fool."""

from importlib.metadata import version

from secateur.certify import Certificate, certify
from secateur.errors import (
    CaptureError,
    InputError,
    NothingToPruneError,
    RecipeError,
    SecateurError,
    TargetMissedError,
    UnsupportedOpError,
    VerificationError,
)
from secateur.evaluate import APGD, FGSM, PGD, AutoAttack, Corruption, Evaluation, evaluate
from secateur.evaluate.latency import Latency, latency
from secateur.formats import load_model, save_model
from secateur.prune import inspect, prune
from secateur.replay import replay
from secateur.report.recipe import Recipe
from secateur.result import HistoryRow, Result

__version__ = version("secateur")

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
    "Latency",
    "NothingToPruneError",
    "Recipe",
    "RecipeError",
    "Result",
    "SecateurError",
    "TargetMissedError",
    "UnsupportedOpError",
    "VerificationError",
    "__version__",
    "certify",
    "evaluate",
    "inspect",
    "latency",
    "load_model",
    "prune",
    "replay",
    "save_model",
]
