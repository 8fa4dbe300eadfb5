"""Statistical certificates: zoo × share of units removed × declared distribution, `reconstruct` without data.

Balls are round test images, surrogates are `shapes`, and data are all test images; pruning has seen none of
them. Reported: draws, changed decisions and the bound on their share, bounds on the drift of half and of
99.9 % of inputs, the largest drift of the draws, the measured rounding of float32, and seconds. The seed is
given, so that the table can be made again.
"""

from __future__ import annotations

from typing import Any

import secateur
from secateur.report.tables import upward
from shared import arguments, load_zoo, markdown, test_data, write

CONFIDENCE, RATE = 0.999, 0.001


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", default=["mnist_mlp", "fashion_cnn"])
    parser.add_argument("--removed", nargs="*", type=float, default=[0.1, 0.3])
    parser.add_argument("--eps", nargs="*", type=float, default=[0.01, 0.05])
    parser.add_argument("--balls", type=int, default=20)
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    rows: dict[str, Any] = {}
    for name in options.networks:
        model = zoo.load(name)
        images, _ = test_data(zoo, name, options.shared)
        balls = [
            {"distribution": "ball", "inputs": images[: options.balls], "eps": eps, "each": each}
            for eps in options.eps
            for each in (False, True)
        ]
        others = [{"distribution": "surrogates"}, {"distribution": "data", "inputs": images}]
        for removed in options.removed:
            small = secateur.prune(model, images[:2], remove=removed, round_to=1).model
            for settings in (*balls, *others):
                found = secateur.certify_by_sampling(
                    model, small, images[:2], confidence=CONFIDENCE, rate=RATE, draw_seed=0, **settings
                )
                key = f"{name}|{removed}|{_named(settings)}"
                rows[key] = found.model_dump(mode="json", exclude={"assumptions", "versions"})
                rows[key]["text"] = _cells(found)
                print(key, *rows[key]["text"], flush=True)
    write(options.output, "sampled", table(rows), rows)


def _named(settings: dict[str, Any]) -> str:
    if settings["distribution"] != "ball":
        return str(settings["distribution"])
    return f"balls of {settings['eps']:g}{', each' if settings['each'] else ''}"


def _cells(found: secateur.StatisticalCertificate) -> list[str]:
    row = found.overall
    assert row.changed is not None and row.changed_at_most is not None
    unchanged = sum(not ball.changed for ball in found.each)
    return [
        f"{row.draws:,}",
        f"{row.changed:,}",
        f"{upward(100 * row.changed_at_most)} %",
        f"{unchanged} of {len(found.each)}" if found.each else "",
        *(upward(bound.at_most) for bound in row.quantiles),
        f"{row.largest:.4g}",
        f"{found.measured_rounding.pruned:.2g}",
        f"{found.seconds:.1f}",
    ]


def table(rows: dict[str, Any]) -> str:
    header = ["network", "removed", "inputs", "draws", "changed", "changed at most", "balls without a change"]
    header += ["drift of 50 %", "drift of 99.9 %", "largest drift", "float32", "s"]
    note = (
        f"All claims of a row hold together with a confidence of {CONFIDENCE}; drifts are bounds but for the "
        "largest, which is that of the draws. *float32*: largest measured difference from float64.\n\n"
    )
    lines = [[*key.split("|"), *value["text"]] for key, value in rows.items()]
    return "# Statistical certificates\n\n" + note + markdown(header, lines)


if __name__ == "__main__":
    main()
