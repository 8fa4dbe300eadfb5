"""Samples in batches: the same bits wherever values wait and whoever computes them, in bounded memory."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from architectures import ARCHITECTURES
from secateur import memory
from secateur import pace as paces
from secateur.errors import InputError, SecateurError, SecateurWarning
from secateur.graph import footprint as footprints
from secateur.graph import stages, workers
from secateur.graph.capture import capture
from secateur.graph.coupling import couple
from secateur.graph.footprint import batch_size, footprint, multiplications
from secateur.graph.node import kind
from secateur.graph.store import Both, Scratch, Store
from secateur.graph.workers import in_order
from secateur.pace import Pace
from secateur.reconstruct import Settings
from secateur.reconstruct.effort import Rows, SolveTime, solve_time
from secateur.surrogates.effort import Effort, effort_for
from secateur.surrogates.source import Source


def pruned(name: str, **settings: Any) -> str:
    architecture = ARCHITECTURES[name]
    settings = {"samples": 48, "remove": 0.4, "normalize": "none", "surrogate": "shapes"} | settings
    return secateur.prune(architecture.build(), architecture.example(), **settings).recipe.result


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the samples of a test make several batches, of which early layers see some."""
    monkeypatch.setattr(footprints, "BATCH_BYTES", 2**16)
    monkeypatch.setattr(stages, "_FEWEST", 8)
    monkeypatch.setattr(stages, "_POSITIONS", 2**10)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["resnet_basic", "densenet", "vision_transformer", "mobilenet"])
def test_results_do_not_depend_on_where_values_wait(
    name: str, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = pruned(name, samples=24)
    for places in (["disk"], [""], ["memory", "", "disk", "", ""]):
        turns = cycle(places)
        monkeypatch.setattr(stages, "_where", lambda *given, turns=turns: next(turns))
        assert pruned(name, samples=24) == expected, places


@pytest.mark.parametrize("memory", [2**30, 0])
def test_layers_with_many_positions_see_fewer_samples(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evenly spread batches, whether the values of all are kept or those of none; a later node sees all."""
    monkeypatch.setattr(footprints, "BATCH_BYTES", 1)  # batches of one sample
    monkeypatch.setattr(stages, "_FEWEST", 4)
    monkeypatch.setattr(stages, "_POSITIONS", 2**9)
    torch.manual_seed(0)
    pool = nn.MaxPool2d(2)
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), pool, nn.Conv2d(2, 2, 3, padding=1), pool,
                          nn.Conv2d(2, 2, 3, padding=1), nn.Flatten(), nn.Linear(32, 3)).eval()  # fmt: skip
    x = torch.rand(16, 1, 16, 16)
    graph = capture(model, x[:2])
    stops = [
        node for node in graph.nodes if node.op == "call_function" and kind(node) in ("conv2d", "linear")
    ]
    starts, outputs = list[list[int]](), list[list[Tensor]]()

    class Visitor:
        def wants(self, node: Any, differs: bool) -> bool:
            starts.append([])
            outputs.append([])
            return True

        def measure(self, arrival: stages.Arrival) -> tuple[int, int, Tensor]:
            return arrival.start, arrival.samples, arrival.output()

        def add(self, found: tuple[int, int, Tensor]) -> None:
            starts[-1].append(found[0])
            outputs[-1].append(found[2])
            assert found[1] == {256: 4, 64: 8}.get(found[2][0, 0].numel(), 16)

        def finish(self, node: Any) -> None:
            pass

    stages.run_stages(graph, stops, graph.tensors, graph.tensors, [x], Visitor(), memory)
    assert starts == [[0, 4, 8, 12], [*range(0, 16, 2)], [*range(16)], [*range(16)]]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(outputs[-1]), model(x))


@pytest.mark.long
def test_results_do_not_depend_on_the_number_of_workers(
    small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprints, "BATCH_BYTES", 2**18)  # four batches; the drawing makes many more
    found = set()
    for count in (1, 2, 5):
        monkeypatch.setattr(workers, "worker_count", lambda count=count: count)
        found.add(pruned("cnn_batch_norm", surrogate="auto"))
    assert len(found) == 1


def test_values_in_a_scratch_file_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    graph = capture(nn.Linear(2, 2).eval(), torch.zeros(2, 2))
    node, other = graph.nodes[0], graph.nodes[1]
    parts = [torch.randn(3, 4).T, torch.arange(5), torch.tensor(True), torch.randn(2, dtype=torch.float16)]
    same = torch.randn(2, 2)
    with Store(2) as store:
        for turn in range(3):
            written = store.begin(True)
            for batch in range(2):
                store.save(batch, written({node: Both(same, same), other: Both([*parts, 7], [turn, *parts])}))
            store.drop_older(True)
            assert not list(tmp_path.iterdir())  # the file has no name
        found = store.load(1)
    assert found[node].original is found[node].pruned and torch.equal(found[node].original, same)
    assert found[other].original[-1] == 7 and found[other].pruned[0] == 2
    for x, y in zip(parts, found[other].original[:-1], strict=True):
        assert x.dtype == y.dtype and torch.equal(x, y)


def test_values_in_memory_are_copied_once() -> None:
    """A worker's memory is given back; what waits on is not copied at each stage."""
    graph = capture(nn.Linear(2, 2).eval(), torch.zeros(2, 2))
    node, other = graph.nodes[0], graph.nodes[1]
    made, more = torch.randn(2, 2), torch.randn(2, 2)
    with Store(1) as store:
        store.save(0, store.begin(False)({node: Both(made, made)}))
        first = store.load(0)[node]
        store.save(0, store.begin(False)({node: first, other: Both([more, 7], [made, 7])}))
        second = store.load(0)
    assert first.original is first.pruned is second[node].original is second[node].pruned
    assert torch.equal(first.original, made) and first.original.data_ptr() != made.data_ptr()
    assert torch.equal(second[other].original[0], more) and second[other].pruned[1] == 7
    assert second[other].original[0].data_ptr() != more.data_ptr()


class Full:
    """A file on a disk with room for so many bytes, which takes a part of what is written last."""

    def __init__(self, room: int) -> None:
        self.file, self.room = io.BytesIO(), room

    def write(self, content: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = self.file.write(content[: min(self.room, 5)])
        self.room -= count
        return count

    def readinto(self, content: memoryview) -> int:
        return self.file.readinto(content[:3])

    def seek(self, place: int) -> int:
        return self.file.seek(place)

    def close(self) -> None:
        self.file.close()


def test_a_full_disk_under_the_scratch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a write and of a read are followed by the rest; then the folder and the bytes are named."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **settings: Full(100))
    value, scratch = torch.randn(4, 4), Scratch(3 * 2**30)
    assert torch.equal(scratch.read(scratch.write(value)), value)
    with pytest.raises(
        SecateurError, match=rf"in {re.escape(str(tmp_path))}: No space left .*; it takes 3 GiB,"
    ) as e:
        scratch.write(value)
    assert "TMPDIR" in str(e.value) and "--memory" in str(e.value)


def test_a_run_on_a_full_disk(small_batches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "_where", lambda *where: "disk")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **settings: Full(1000))
    with pytest.raises(SecateurError, match=r"cannot be written in .*: No space left on device; it takes"):
        pruned("cnn_batch_norm")


def test_work_comes_in_order_and_errors_end_it() -> None:
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 * (item == 0))
        if item == 7:
            raise ValueError("seven")
        begun.append(item)
        return item

    begun = list[int]()
    assert list(in_order(slow_at_first, range(6), 3)) == list(range(6))
    with pytest.raises(ValueError, match="seven"):
        list(in_order(slow_at_first, range(6, 1000), 3))
    assert len(begun) < 20
    ahead: Iterator[int] = in_order(slow_at_first, iter(range(8, 1000)), 2)
    assert next(ahead) == 8
    ahead.close()  # type: ignore[attr-defined]
    assert len(begun) < 30


def test_the_footprint_counts_numbers_and_their_lives() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    graph = capture(model, torch.zeros(2, 4))
    sizes = footprint(graph)
    assert sorted(sizes.numbers.values()) == [3, 6, 6] and sizes.total == 15 and sizes.peak == 12
    assert multiplications(graph, sizes) == 6 * 4 + 6 * 1 + 3 * 6
    last = next(i for i, node in enumerate(sizes.nodes) if sizes.numbers.get(node) == 3)
    assert [sizes.numbers[node] for node in sizes.alive(last)] == [6]
    assert batch_size(2**20, [torch.zeros(1)]) == 8 and batch_size(1, [torch.zeros(1)]) == 512
    assert batch_size(2**40, [torch.zeros(1)]) == 1


@pytest.mark.judged
def test_drawing_costs_no_more_than_using(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ARCHITECTURES["cnn_batch_norm"]
    source = Source(capture(model.build(), model.example()), (), torch.Generator())
    small = effort_for(source, 1024, 8)
    assert small == Effort(candidates=12, probes=192, moved=512, steps=40, class_steps=5)
    monkeypatch.setattr(Source, "work", 1e9)  # 3,072 passes for 1,024 samples
    large = effort_for(Source(source.graph, (), source.generator), 1024, 8)
    assert large == Effort(candidates=1, probes=48, moved=64, steps=6, class_steps=0)


LIMITED = """
    import sys
    import torch
    from torch import nn
    from secateur.graph.capture import capture
    from secateur.graph.coupling import couple
    from secateur.reconstruct import Settings, layer_statistics, reconstruct
    from secateur.types import Samples

    torch.set_num_threads(1)
    MODELS = {
        "pictures": (64, 1024, nn.Sequential(
            nn.Conv2d(1, 48, 1), nn.ReLU(), nn.Conv2d(48, 8, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(8, 4))),
        "flattened": (16, 64, nn.Sequential(
            nn.Conv2d(1, 64, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16384, 16), nn.ReLU(), nn.Linear(16, 4))),
    }
    size, samples, model = MODELS[sys.argv[1]]
    graph = capture(model.eval(), torch.rand(2, 1, size, size))
    coupling = couple(graph)
    weights = {name: w.double() for name, w in graph.tensors.items()}
    alive = {g.name: torch.ones(g.units, dtype=torch.bool) for g in coupling.prunable}
    need = {g.name: g.units // 2 for g in coupling.prunable}

    def refitted(samples):
        inputs = Samples((torch.rand(samples, 1, size, size),))
        stats = layer_statistics(graph, coupling, weights, inputs, (), Settings(), 0, 2**26)
        return reconstruct(stats, weights, alive, need)

    def peak():
        return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

    refitted(16)  # what is imported and allocated once
    before = peak()
    removals, _ = refitted(samples)
    print(sum(len(removal.units) for removal in removals), peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc tells the peak")
@pytest.mark.parametrize(
    ("model", "units"), [("pictures", 28), pytest.param("flattened", 40, marks=pytest.mark.long)]
)
def test_memory_is_bounded(model: str, units: int) -> None:
    """The run may take 0.5 GiB.

    The values of one layer of `pictures` take 0.75 GiB for all samples, in each network; the second moments of
    the flattened layer would take 2 GiB.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LIMITED), model], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    removed, taken = map(int, done.stdout.split())
    assert removed == units and 0 < taken < 2**29


def test_memory_that_has_grown_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = [2**30]
    given: list[int] = []

    def give_back() -> None:
        given.append(resident[0])
        resident[0] = 2**29

    monkeypatch.setattr(memory, "_resident", 2**30)
    monkeypatch.setattr(memory, "_resident_bytes", lambda: resident[0])
    monkeypatch.setattr(memory, "give_back", give_back)
    memory.give_back_growth()
    resident[0] += 2**28
    memory.give_back_growth()
    assert given == []
    resident[0] += 1
    list(in_order(str, range(3), workers=1))
    assert given == [2**30 + 2**28 + 1]
    resident[0] += 2**28 + 1
    list(in_order(str, range(3), workers=2))
    assert given[1:] == [2**29 + 2**28 + 1]


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GiB", 2**31), ("500MB", 500_000_000), (2**30, 2**30), ("1.5 GiB", 3 * 2**29), ("5e8", 500_000_000)],
)
def test_sizes(text: Any, size: int) -> None:
    assert memory.as_bytes(text) == size
    assert memory.default_memory() >= 2**30


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5min", 300), (2.5, 2.5), ("1h", 3600), ("2e2 s", 200)]
)
def test_times(text: Any, seconds: float) -> None:
    assert paces.as_seconds(text) == seconds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"memory": "2 gibi"},
            r"memory='2 gibi': give bytes, or a text with a unit \(B, kB, .* TiB\) such as '2GiB', at least",
        ),
        ({"memory": 1000}, "at least 256MiB"),
        ({"memory": True}, "memory=True"),
        ({"memory": "1e400"}, "memory='1e400'"),
        (
            {"budget": "soon"},
            r"budget='soon': give seconds, or a text with a unit \(s, sec, min, h\) such as '5min', above 0",
        ),
        ({"budget": 0}, "budget=0"),
        ({"budget": "1.2.3s"}, "budget='1.2.3s'"),
        ({"budget": "-5min"}, "budget='-5min'"),
    ],
)
def test_other_sizes_and_times_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        pruned("cnn_batch_norm", **settings)


def test_a_time_budget_chooses_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    # 6 passes a sample, 1,792 passes beside; slow ones, so that the run itself is within its budget
    pace = Pace(seconds=1e-2, work=1e12, steps=1, drawn=True, judged=512, solves=SolveTime())
    assert pace.estimate(1000) == pytest.approx(60 + 17.92)
    assert replace(pace, steps=2, drawn=False).estimate(1000) == pytest.approx(60 + 17.92)
    assert pace.affordable(30.0, 1000) == 201
    assert pace.affordable(1.0, 1000) == 32 and pace.affordable(1000.0, 1000) == 1000
    assert pace.affordable(1.0, 16) == 16
    monkeypatch.setattr(import_module("secateur.prune"), "_pace", lambda task, request: pace)
    architecture = ARCHITECTURES["cnn_batch_norm"]
    settings = {"samples": 64, "surrogate": "shapes", "normalize": "none", "remove": 0.5}
    result = secateur.prune(architecture.build(), architecture.example(), budget=20.0, **settings)
    assert (result.recipe.request.samples, result.recipe.request.budget, result.recipe.used.samples) == (
        64,
        20,
        34,
    )
    with pytest.warns(SecateurWarning, match="budget: the run takes about 20 s with 32 samples, the fewest"):
        secateur.prune(architecture.build(), architecture.example(), budget=5.0, **settings)


@pytest.mark.parametrize(("given", "samples", "judged_on"), [(2000, 32, 512), (300, 32, 100), (30, 20, 10)])
def test_a_budget_leaves_what_a_verdict_needs(
    given: int, samples: int, judged_on: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer inputs are refitted on; a third of the inputs, up to 512, is held out as without a budget."""
    monkeypatch.setattr(Pace, "affordable", lambda *given: 32)
    monkeypatch.setattr(import_module("secateur.validation"), "MOST", 512)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    own = torch.rand(given, 4)
    settings: dict[str, Any] = {"calibration": own, "surrogate": "none", "normalize": "none", "remove": 0.5}
    used = secateur.prune(model, own[:1], budget="1h", **settings).recipe.used
    assert (used.samples, used.judged_on) == (samples, judged_on)


def test_the_estimate_counts_eliminations_and_refits() -> None:
    """Cubic in the width; the moments of a convolution are taken from some of its positions."""
    times = SolveTime(eliminations=3.0, refits=2.0, rows=(Rows(1, 10_000, 1e-3), Rows(64, 10_000, 1e-3)))
    assert times.estimate(100, 1) == pytest.approx(3 + 2 + 0.1 + 6.4)
    assert times.estimate(1000, 2) == pytest.approx(3 + 2 * (2 + 1 + 10))

    def estimated(width: int) -> SolveTime:
        model = nn.Sequential(
            *(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()), nn.Linear(width, 2)
        )
        graph = capture(model.eval(), torch.zeros(2, 4))
        return solve_time(graph, couple(graph).prunable, lambda group: group.units // 2, Settings())

    narrow, wide = estimated(64), estimated(256)
    assert 20 < wide.refits / narrow.refits < 64 and wide.eliminations > narrow.eliminations > 0
    assert [row.positions for row in wide.rows] == [1, 1]


@pytest.mark.long
def test_inputs_take_no_more_than_half_of_the_memory() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=8)).eval()
    with pytest.warns(
        SecateurWarning, match=r"samples: 85 of 100 are drawn: more take over half of .* 256 MiB"
    ):
        secateur.prune(
            model,
            torch.zeros(2, 3, 362, 362),
            remove=0.5,
            samples=100,
            memory="256MiB",
            surrogate="uniform",
            normalize="none",
        )
