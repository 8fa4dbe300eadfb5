"""Bounds of auto_LiRPA on g − f, for certify.py; run by a Python of its own, without secateur.

auto_LiRPA 0.3, the newest in the package index, needs torch below 1.13 and so Python 3.10 or older:

    python3.10 -m venv lirpa
    lirpa/bin/pip install auto_LiRPA==0.3 'numpy<2'
    python benchmarks/certify.py --networks mnist_mlp --balls 60 --lirpa lirpa/bin/python

f and g are joined to one network, so that bounds on g − f are those of an output.
"""

import json
import sys
import time

import numpy as np
import torch
from auto_LiRPA import BoundedModule, BoundedTensor
from auto_LiRPA.perturbations import PerturbationLpNorm
from torch import nn


class Difference(nn.Module):
    def __init__(self, f, g):
        super().__init__()
        self.f, self.g = f, g

    def forward(self, x):
        return self.g(x) - self.f(x)


def network(layers, arrays, role):
    modules = []
    for number, (kind, options) in enumerate(layers):
        weight, bias = (arrays.get(f"{role}.{number}.{name}") for name in ("weight", "bias"))
        if kind == "Linear":
            layer = nn.Linear(weight.shape[1], weight.shape[0])
        elif kind == "Conv2d":
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], **options)
        else:
            layer = getattr(nn, kind)(**options)
        if weight is not None:
            layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
        modules.append(layer)
    return nn.Sequential(*modules).eval()


def main():
    path, method = sys.argv[1:]
    arrays = dict(np.load(path))
    about = json.loads(str(arrays["about"]))
    model = Difference(*(network(about["layers"], arrays, role) for role in "fg"))
    found, begin = [], time.perf_counter()
    bounded = BoundedModule(model, torch.tensor(arrays["inputs"][:1]))
    for x in torch.tensor(arrays["inputs"]).split(1):
        low, high = (x - about["eps"]).clamp(min=0), (x + about["eps"]).clamp(max=1)
        ball = BoundedTensor(x, PerturbationLpNorm(norm=np.inf, x_L=low, x_U=high))
        low, high = bounded.compute_bounds((ball,), method=method)
        found.append(float(torch.maximum(-low, high).max()))
    print(json.dumps({"drift": found, "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
