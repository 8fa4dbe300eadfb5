"""How often the model's own word on the normalisation of its inputs is right (`secateur.normalisation`).

Small networks of known normalisation (see `normalised_networks.py`), and the zoo's with the normalisation
moved in or out and norms kept or folded. Each is looked at as if the user had said the right one, and as if
each of the others. Reported: warnings on the right one (false alarms); of the wrong ones that cost more than
10 points of accuracy, how many are warned about; the same of harmless ones; and how often a warning of a
harmful one names the right kind.

The rule's thresholds were chosen on MNIST and CIFAR-10; which figures to look at, with all networks in sight.
`--own` gives 100 unlabelled images of the data set as the user's; nothing was chosen by these runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from normalised_networks import (
    MEASURED_ON,
    TRAINED_ON,
    Network,
    accuracy,
    candidates,
    folded,
    networks,
    standardised_for,
    taken,
)
from secateur.formats.arrays import load_arrays
from secateur.graph.capture import capture
from secateur.normalisation import likely_normalisation
from secateur.presets import Preset
from shared import arguments, load_zoo, markdown, write

HARM = 0.1  # of accuracy
LEARNT = {
    "mnist": 0.5,
    "fashion_mnist": 0.5,
    "cifar10": 0.3,
}  # accuracy below which a network has learnt nothing
OWN = 100  # images, in the run with the user's own


@dataclass(frozen=True)
class Case:
    group: str
    kind: str
    right: bool
    harm: float
    warned: bool
    named: bool  # whether the likeliest is the one of the training
    text: str


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--cache", type=Path, help="folder for the weights (default: in --output)")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the drawings")
    parser.add_argument(
        "--own", action="store_true", help="give 100 unlabelled images of the data set as one's own"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = options.cache or options.output / "normalised_networks"
    arrays = {name: load_arrays(options.shared / "data" / f"{name}.npz") for name in LEARNT}
    found = list[Case]()
    for network in every(options.shared, cache, options.seeds):
        data = arrays[network.data]
        if network.accuracy < LEARNT[network.data]:
            print(f"left out: {network.name}, accuracy {network.accuracy:.2f}", flush=True)
            continue
        own = data["images"][TRAINED_ON : TRAINED_ON + OWN] if options.own else None
        cases = list(
            judged(network, data["images"][-MEASURED_ON:], data["labels"][-MEASURED_ON:], own, options.seed)
        )
        wrong = [case.text for case in cases if case.right and case.warned]
        print(network.name, *wrong, sep="\n  FALSE ALARM ", flush=True)
        found += cases
    name = "normalisation_own" if options.own else "normalisation"
    write(options.output, name, table(found), [vars(case) for case in found])


def every(shared: Path, cache: Path, seeds: int) -> Iterator[Network]:
    yield from networks(shared, cache, seeds)
    yield from of_zoo(load_zoo(shared), shared)


def judged(network: Network, images: Tensor, labels: Tensor, own: Tensor | None, seed: int) -> Iterator[Case]:
    """One case for each normalisation that the user may have said."""
    graph = capture(network.model, images[:2].clone())
    known = candidates(network.data)
    for said, preset in known.items():
        low, high = preset.bounds
        units = own if own is None else low + (high - low) * own
        finding = likely_normalisation(graph, preset.bounds, preset.mean, preset.std, seed=seed, images=units)
        x = taken(preset, images)
        harm = network.accuracy - accuracy(network.model, x, labels)
        named = finding.preset is not None and near(finding.preset, known[network.taken])
        text = f"said {said}: {finding.evidence}"
        yield Case(
            group(network),
            network.kind,
            said == network.taken,
            harm,
            finding.clear,
            named,
            f"{network.name}, {text}",
        )


def near(first: Preset, second: Preset) -> bool:
    """Whether two put black and white at about the same numbers."""
    black_and_white = torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1)
    found, true = (taken(preset, black_and_white).mean((1, 2, 3)) for preset in (first, second))
    return bool(((found - true).abs() < 0.35 * (true[1] - true[0])).all())


def group(network: Network) -> str:
    if network.seed < 0:
        return "zoo"
    return "Fashion-MNIST" if network.data == "fashion_mnist" else "MNIST, CIFAR-10 (rule chosen on)"


def of_zoo(zoo: ModuleType, shared: Path) -> Iterator[Network]:
    """The zoo's networks as they are, and with the normalisation outside; each with batch norms folded,
    too.
    """
    for name in zoo.NAMES:
        data = zoo.DATA[name]
        arrays = load_arrays(shared / "data" / f"{data}.npz")
        images, labels = arrays["images"][-MEASURED_ON:], arrays["labels"][-MEASURED_ON:]
        for inputs in ("none", "standardised"):
            model = zoo.load(name) if inputs == "none" else outside(zoo.load(name), data)
            norms = any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules())
            for kind in ("batch norm", "folded") if norms else ("without batch norm",):
                net = folded(model) if kind == "folded" else model
                measured = accuracy(net, taken(candidates(data)[inputs], images), labels)
                yield Network(data, inputs, kind, -1, net, measured, f"{name}, {inputs}, {kind}")


def outside(model: nn.Module, data: str) -> nn.Module:
    """The model as one that takes standardised images."""
    if isinstance(model, nn.Sequential) and type(model[0]).__name__ == "Normalise":
        bare: nn.Module = model[1]
        return bare
    if hasattr(model, "mean"):
        model.mean.zero_()
        model.std.fill_(1.0)
        return model
    preset = standardised_for(data)
    first = next(
        layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    )  # without padding
    with torch.no_grad():
        first.bias += preset.mean[0] * first.weight.flatten(1).sum(1)
        first.weight *= preset.std[0]
    return model


def table(found: list[Case]) -> str:
    rows = []
    kinds = sorted({(case.group, case.kind) for case in found})
    for key in kinds + [(group, "all") for group in sorted({case.group for case in found})]:
        cases = [case for case in found if case.group == key[0] and key[1] in (case.kind, "all")]
        right = [case for case in cases if case.right]
        harmful = [case for case in cases if not case.right and case.harm > HARM]
        harmless = [case for case in cases if not case.right and case.harm <= HARM]
        forgotten = [case for case in harmful if "said none" in case.text]
        warned = [case for case in harmful if case.warned]
        named = sum(case.named for case in warned)
        shares = [share(part) for part in (right, harmful, forgotten, harmless)]
        rows.append([*key, *shares, f"{named} of {len(warned)}"])
    header = [
        "networks",
        "kind",
        "false alarms",
        "harmful: warned",
        "of these none said",
        "harmless: warned",
        "named right",
    ]
    return "# Normalisation\n\n" + markdown(header, rows)


def share(cases: list[Case]) -> str:
    return f"{sum(case.warned for case in cases)} of {len(cases)}"


if __name__ == "__main__":
    main()
