"""Options of `secateur certify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from secateur.cli.names import Bounds, Distribution, Independent, Norm, Numbers, listed
from secateur.cli.options import (
    COMMON,
    IMAGES,
    MODEL_FILE,
    OUTPUT,
    weights_of,
)

Pruned = Annotated[
    str,
    Argument(
        metavar="PRUNED",
        help=f"Pruned form of MODEL: {MODEL_FILE}. Other models are refused.",
    ),
]

MOST_SAMPLES = 100  # images, unless more are asked for
STATISTICS = "Statistics in place of a proof (with --confidence)"

# --- common -------------------------------------------------------------------------------------------------

Data = Annotated[
    Path | None,
    Option(
        metavar="PATH",
        rich_help_panel=COMMON,
        help=f"Images to prove something about: {IMAGES}; needs --eps. With the array labels too (class "
        "numbers), only correctly classified images count as stable. Default: the proof is about every input "
        "in --input-bounds.",
    ),
]
Eps = Annotated[
    float | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Radius of the L∞ ball around each image of --data: how far each pixel may move, in the units "
        "of --input-bounds, e.g. 0.01. Wide balls give weak bounds.",
    ),
]
Samples = Annotated[
    int | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Number of images to use, from the first of --data. An image can take up to a minute. Default: "
        "100; with --distribution data, all.",
    ),
]
MethodOption = Annotated[
    Bounds,
    Option(
        "--method",
        metavar="NAME",
        rich_help_panel=COMMON,
        help="How bounds are computed. linear: linear bounds on both models together, tighter; interval: "
        "interval arithmetic, much faster and looser.",
    ),
]
ArithmeticOption = Annotated[
    Numbers,
    Option(
        "--arithmetic",
        metavar="NAME",
        rich_help_panel=COMMON,
        help="float: the claims hold for both models as they are run in float32, rounding included; real: in "
        "real arithmetic; auto: with rounding where its bound is small beside the drift.",
    ),
]
AttackSteps = Annotated[
    int,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Steps of a gradient search for real inputs with a large change, to compare the proved bound "
        "with. 0: no search.",
    ),
]
Budget = Annotated[
    str | None,
    Option(
        metavar="TIME",
        rich_help_panel=COMMON,
        help="Time for splitting the input box, the widest part first, e.g. 60s; without --data. The bounds "
        "get narrower, and hold whenever it stops. It pays for inputs of few numbers.",
    ),
]
Check = Annotated[
    Path | None,
    Option(
        "--check",
        metavar="CERTIFICATE",
        rich_help_panel=COMMON,
        help="Check that an existing certificate (.json) is about MODEL, PRUNED and the images of --data, "
        "instead of making one. Radius, bounds and normalisation are those of the certificate.",
    ),
]
Prove = Annotated[
    bool,
    Option(
        "--prove",
        rich_help_panel=COMMON,
        help="With --check: compute all bounds again, too, and compare. Takes as long as making the "
        "certificate did.",
    ),
]
PrunedWeights = Annotated[Path | None, weights_of("PRUNED")]

# --- statistics ---------------------------------------------------------------------------------------------

Confidence = Annotated[
    float | None,
    Option(
        metavar="SHARE",
        rich_help_panel=STATISTICS,
        help="Prove nothing, but run both models on random inputs, and bound how often predictions change "
        "and how far outputs move. All of the bounds hold with this probability, e.g. 0.999. Takes seconds "
        "for models of any kind.",
    ),
]
DistributionOption = Annotated[
    Distribution,
    Option(
        metavar="NAME",
        rich_help_panel=STATISTICS,
        help="Which inputs the bounds are about. ball: evenly spread within --eps of the images of --data. "
        "surrogates: drawings made without data. data: the source of the images of --data, which must be "
        "random picks from it that were not used for pruning.",
    ),
]
Rate = Annotated[
    float,
    Option(
        metavar="SHARE",
        rich_help_panel=STATISTICS,
        help="Share of changed predictions to show, e.g. 0.001; it sets the number of random inputs. They "
        "show it if no prediction changes.",
    ),
]
Margin = Annotated[
    float | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=COMMON,
        help="Largest change of an output that you accept, said beforehand. --statement says whether it is "
        "proved; with --confidence, how often it is exceeded is bounded, too.",
    ),
]
NormOption = Annotated[
    Norm,
    Option(
        metavar="NAME",
        rich_help_panel=STATISTICS,
        help="Norm of the balls: linf or l2. Proofs are about linf alone.",
    ),
]
Each = Annotated[
    bool,
    Option(
        "--each",
        rich_help_panel=STATISTICS,
        help="Bound the same for each ball as well, with as many random inputs for each of them.",
    ),
]
SurrogateOption = Annotated[
    Independent,
    Option(
        metavar="NAME",
        rich_help_panel=STATISTICS,
        help=f"Kind of drawings for --distribution surrogates: {listed(Independent)}.",
    ),
]
DrawSeed = Annotated[
    int | None,
    Option(
        metavar="NUMBER",
        rich_help_panel=STATISTICS,
        help="Seed of the random inputs, to make those of a certificate again. Default: the system draws one "
        "once both models have been read. The certificate tells which it was.",
    ),
]

# --- output and other ---------------------------------------------------------------------------------------

CertificateFile = Annotated[
    Path | None,
    Option(
        "--output",
        "-o",
        metavar="PATH",
        rich_help_panel=OUTPUT,
        help="File for the certificate, a .json file. Default: not written.",
    ),
]
StatementFile = Annotated[
    Path | None,
    Option(
        "--statement",
        metavar="PATH",
        rich_help_panel=OUTPUT,
        help="Write what is claimed and what is not, with the identity of both models: a .json file for "
        "machines, or an .md file, a page for people.",
    ),
]
Vnnlib = Annotated[
    Path | None,
    Option(
        metavar="PREFIX",
        rich_help_panel=OUTPUT,
        help="Write the claim as a task for other verifiers: PREFIX.onnx and PREFIX.vnnlib (VNN-LIB 1.0). "
        "One claim only: without --data, or with --samples 1. Needs the packages onnx and onnxscript.",
    ),
]
