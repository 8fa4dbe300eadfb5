"""What quantising costs after pruning: accuracy, file size, time and robust accuracy on networks of the zoo.

Each network is pruned (half of the units), and the original and the pruned network are both quantised,
without data. Times are medians of one sample in onnxruntime; the original, the pruned and its quantised form
run in turns. PGD-20 attacks the float networks; a quantised one is given the inputs found against the
float network that it was made of, since it has no gradients of its own. Labelled data are for reporting only.
Networks that quantise.json already holds are kept, so that the run can be made in parts.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import secateur
from secateur.evaluate.attacks.pgd import PGD
from secateur.evaluate.attacks.run import perturbed
from secateur.evaluate.attacks.target import target_of
from secateur.evaluate.box import input_box
from shared import PGD_DEFAULT, PGD_RADIUS, arguments, load_zoo, machine, markdown, test_data, write

NETWORKS = ("mnist_mlp", "fashion_mlp", "fashion_cnn", "fashion_cnn_bn", "cifar_vgg11", "cifar_resnet20")
REMOVED = "0.5"
_BATCH = 250


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="names in the zoo")
    parser.add_argument("--scheme", default="int8")
    parser.add_argument("--samples", type=int, default=2000, help="test images")
    parser.add_argument("--attacked", type=int, default=500, help="images under attack (CIFAR: a fifth)")
    options = parser.parse_args()
    zoo = load_zoo(options.shared)
    path: Path = options.output / "quantise.json"
    rows: dict[str, Any] = json.loads(path.read_text())["results"] if path.is_file() else {}
    for name in options.networks:
        key = f"{name}|{options.scheme}"
        if key not in rows:
            rows[key] = row(zoo, name, options.scheme, options.samples, options.attacked, options.shared)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"machine": machine(), "results": rows}, indent=1) + "\n")
            print(name, rows[key], file=sys.stderr, flush=True)
    write(options.output, "quantise", table(rows), rows)


def row(zoo: Any, name: str, scheme: str, samples: int, attacked: int, shared: Path) -> list[dict[str, Any]]:
    """One dict for each of: original, original quantised, pruned, pruned and quantised."""
    model = zoo.load(name)
    images, labels = (part[:samples] for part in test_data(zoo, name, shared))
    small = secateur.prune(model, images[:2], remove=REMOVED).model
    common: dict[str, Any] = {"scheme": scheme, "images": images, "labels": labels}
    whole = secateur.quantize(model, images[:2], **common)
    cut = secateur.quantize(small, images[:2], original=model, **common)
    original, pruned, quantised = cut.record.stages
    stages = {
        "original": (original, lambda x: logits(model, x)),
        scheme: (whole.record.stages[1], lambda x: whole.run(x)[0]),
        "pruned": (pruned, lambda x: logits(small, x)),
        f"pruned, {scheme}": (quantised, lambda x: cut.run(x)[0]),
    }
    count = attacked // 5 if name.startswith("cifar") else attacked
    attack = PGD(PGD_RADIUS.get(name, PGD_DEFAULT), steps=20)
    found = {net: attacks(net, images[:count], labels[:count], attack) for net in (model, small)}
    made_of = {"original": model, scheme: model, "pruned": small, f"pruned, {scheme}": small}
    decided = logits(model, images).argmax(1)
    rows = []
    for stage, (record, run) in stages.items():
        outputs = run(images)
        rows.append(
            {
                "stage": stage,
                "kB": record.bytes / 1000,
                "ms": record.ms,
                "surrogate_agreement": record.agreement,
                "agreement": share(outputs, decided),
                "accuracy": share(outputs, labels),
                "pgd20": share(run(found[made_of[stage]]), labels[:count]),
                "clean": share(outputs[:count], labels[:count]),
            }
        )
    return rows


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(_BATCH)])


def share(outputs: Tensor, wanted: Tensor) -> float:
    return float((outputs.argmax(1) == wanted).double().mean())


def attacks(model: nn.Module, images: Tensor, labels: Tensor, attack: PGD) -> Tensor:
    """Inputs within the radius that were found against `model`, from every image, right or wrong."""
    target = target_of(model, "logits", input_box(images, (0.0, 1.0)), None)
    rows = torch.arange(len(images)).split(_BATCH)
    return torch.cat([perturbed(attack, target, images[r], labels[r], r, 0) for r in rows])


def table(rows: dict[str, Any]) -> str:
    header = ["network", "model", "file, kB", "ms", "accuracy %", "agreement %", "PGD-20 %"]
    lines = []
    for key, stages in rows.items():
        for i, s in enumerate(stages):
            shares = (f"{100 * s[q]:.1f}" for q in ("accuracy", "agreement", "pgd20"))
            name = key.partition("|")[0] if not i else ""
            lines.append([name, s["stage"], f"{s['kB']:,.0f}", f"{s['ms']:.3f}", *shares])
    return markdown(header, lines)


if __name__ == "__main__":
    main()
