"""Reports: what they show is what the run holds, whatever its names are; one static, accessible page."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from dataclasses import replace
from functools import cache
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import html5lib
import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

import secateur
from command import run
from secateur.errors import InputError
from secateur.evaluate.report import Cost, Estimate, Language
from secateur.explain import Inspection
from secateur.page.card import card
from secateur.page.facts import (
    ClassFact,
    Facts,
    Figure,
    GroupFact,
    InputFact,
    Judgement,
    OutputFact,
    joined,
)
from secateur.page.files import facts_of_files
from secateur.page.from_certificate import certificate_facts
from secateur.page.from_evaluation import counted_interval, evaluation_facts
from secateur.page.from_quantization import quantization_facts
from secateur.page.from_recipe import recipe_facts, result_facts
from secateur.page.moved import with_moved
from secateur.page.picture import WIDTH, group_bars, scatter
from secateur.page.render import check_jinja, page
from secateur.page.sections import SECTIONS
from secateur.page.thumbnails import thumbnails
from secateur.page.words import number
from secateur.report.quantization import Quantization, Stage
from secateur.report.tables import upward
from secateur.samples import Calibration
from secateur.strict_json import dumps
from trained import blobs

HOSTILE = (
    "\"><script>alert('1')</script><img src=x onerror=alert(2)>\u202e\x1b[2J](https://evil.example) `'|&amp;"
)
LANDMARKS = {"header", "nav", "main", "footer"}


@cache
def pruned() -> secateur.Result:
    model, images, _ = blobs()
    return secateur.prune(model, images[:1], remove=0.5, samples=64, seed=3)


@cache
def evaluated() -> secateur.Evaluation:
    model, images, labels = blobs()
    attacks = [secateur.FGSM(0.05)]
    return secateur.evaluate(pruned().model, images, labels, original=model, attacks=attacks)


@cache
def certified() -> secateur.Certificate:
    model, images, _ = blobs()
    return secateur.certify(
        model, pruned().model, inputs=images[:4], eps=0.001, method="interval", attack_steps=2
    )


QUANTIZED = Quantization(
    scheme="int8",
    runtime="onnxruntime 1",
    nodes=3,
    stages=(
        Stage(name="float", bytes=4000, ms=2.0),
        Stage(name="quantised", bytes=1000, ms=1.0, agreement=0.5),
    ),
    judged_on=64,
    digest="0" * 64,
)


@cache
def whole() -> Facts:
    """All that is known of one run."""
    model, images, _ = blobs()
    facts = result_facts(pruned(), "small", "small.recipe.json", "net.pt2")
    facts = with_moved(facts, model, pruned().model, pruned().recipe, images[:1])
    for more in (
        evaluation_facts(evaluated(), "eval.json"),
        certificate_facts(certified(), "cert.json"),
        quantization_facts(QUANTIZED, "quantised"),
    ):
        facts = joined(facts, more)
    return facts


def hostile() -> Facts:
    """Every text is an attack on the page."""
    picture = thumbnails(torch.rand(1, 3, 8, 8), [0])[0]
    return Facts(
        name=HOSTILE,
        asked=HOSTILE,
        came=HOSTILE,
        figures=(Figure(HOSTILE, 1.0, 2.0, "count", (1.0, 3.0), (0.0, 1.0), HOSTILE),),
        verdict=Judgement("check", HOSTILE, (HOSTILE,)),
        groups=(GroupFact(HOSTILE, 4, 2), GroupFact(HOSTILE, 4, 4, HOSTILE)),
        blocked={HOSTILE: HOSTILE},
        outputs=(OutputFact(0, 1.0, 0.5),),
        outputs_on=HOSTILE,
        classes=(ClassFact(1, 3, 0.5, 0.25, 0.1, 0.2, 0.3),),
        moved=(InputFact(0, 1.0, HOSTILE, HOSTILE + "2", HOSTILE, picture),),
        moved_on=HOSTILE,
        proofs=(HOSTILE,),
        assumptions=(HOSTILE,),
        sampled=(HOSTILE,),
        sampled_assumptions=(HOSTILE,),
        not_covered=(HOSTILE,),
        quantisation=(HOSTILE,),
        warnings=(HOSTILE,),
        settings={HOSTILE: HOSTILE, "method": HOSTILE},
        versions={HOSTILE: HOSTILE},
        digests={HOSTILE: HOSTILE},
        rebuild=HOSTILE,
        inputs=(HOSTILE,),
    )


PAGES = {
    "one": lambda: [whole()],
    "several": lambda: [whole(), replace(whole(), name="other"), Facts("bare")],
    "hostile": lambda: [hostile()],
    "several hostile": lambda: [hostile(), replace(hostile(), name=HOSTILE + "2")],
}


@cache
def made(name: str) -> str:
    return page(PAGES[name](), title="Report", picked="other")


def tree(text: str) -> Element:
    """The page as a parser of HTML5 reads it; an error of syntax is one here."""
    parser = html5lib.HTMLParser(html5lib.getTreeBuilder("etree"), strict=True, namespaceHTMLElements=False)
    root: Element = parser.parse(text)
    for element in root.iter():
        if isinstance(element.tag, str):  # else a comment
            element.tag = element.tag.rpartition("}")[2]  # without the namespace of SVG
    return root


def plain(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def rows(root: Element, anchor: str) -> dict[str, list[str]]:
    """The rows of the first table of a section, by their first cell."""
    (section,) = (s for s in root.iter("section") if s.get("aria-labelledby") == anchor)
    table = next(section.iter("table"))
    cells = [[plain(cell) for cell in row] for row in table.iter("tr")]
    return {first: rest for first, *rest in cells[1:]}


# --- contents -----------------------------------------------------------------------------------------------


def test_sizes_before_and_after_are_those_of_the_result() -> None:
    found = rows(tree(made("one")), "figures")
    before, after = pruned().before, pruned().after
    for name, old, new in (
        ("units", before.units, after.units),
        ("parameters", before.parameters, after.parameters),
        ("MACs for one input", before.macs, after.macs),
    ):
        assert found[name][:3] == [f"{old:,}", f"{new:,}", f"−{1 - new / old:.1%}"], name


def test_figures_from_samples_have_their_intervals() -> None:
    found, report = rows(tree(made("one")), "figures"), evaluated()
    assert report.agreement is not None and report.agreement_interval is not None
    low, high = report.agreement_interval
    assert found["agreement with the original"][1] == f"{report.agreement:.2%}{low:.2%} to {high:.2%}"
    # All of 10 inputs: the lower end is the tenth root of 0.025.
    assert counted_interval(1.0, 10) == pytest.approx((0.025**0.1, 1.0))
    low, high = counted_interval(report.accuracy[1], 300)
    assert found["top-1 accuracy"][1] == f"{report.accuracy[1]:.2%}{low:.2%} to {high:.2%}"
    attack = report.attacks[0]
    assert found[f"robust accuracy, {attack.name}"][1].startswith(f"{attack.robust_accuracy:.2%}")


def test_a_language_model_has_its_own_figures() -> None:
    language = Language(
        tokens=16,
        perplexity=Estimate(value=8.5, low=8.0, high=9.0),
        original_perplexity=Estimate(value=8.0),
        accuracy={1: Estimate(value=0.5, low=0.4, high=0.6)},
        agreement=Estimate(value=0.75),
    )
    cost = Cost(parameters=10, macs=None, bytes=40)
    report = secateur.Evaluation(samples=20, head="none", cost=cost, language=language)
    found = rows(tree(page([evaluation_facts(report, "text")])), "figures")
    assert found["perplexity"][:2] == ["8", "8.58 to 9"]
    assert found["next token, top-1 accuracy"][1] == "50.00%40.00% to 60.00%"
    assert "KL divergence from the original, nats" not in found and "MACs for one input" not in found


def test_what_was_not_measured_is_not_shown() -> None:
    found = tree(page([recipe_facts(pruned().recipe, "small")]))
    figures = rows(found, "figures")
    assert figures["MACs for one input"][0] == "–"  # a recipe does not hold those of the original
    assert "top-1 accuracy" not in figures
    shown = {section.get("aria-labelledby") for section in found.iter("section")}
    assert shown == {"verdict", "figures", "groups", "rebuild"}


def test_every_section_is_there_for_a_run_that_holds_all() -> None:
    shown = {section.get("aria-labelledby") for section in tree(made("hostile")).iter("section")}
    assert shown == {section.name for section in SECTIONS}


def test_the_verdict_and_the_sentence_are_those_of_the_run() -> None:
    verdict, text = pruned().verdict, plain(tree(made("one")))
    assert verdict is not None and all(line.strip() in text for line in verdict.lines()[1:])
    gone, units = pruned().before.units - pruned().after.units, pruned().before.units
    assert "Remove 50% of the units of each layer with the method reconstruct." in text
    assert f"{gone} of {units} units ({gone / units:.1%})" in text


def test_bars_are_as_wide_as_groups_are_large() -> None:
    bars = group_bars([GroupFact("a", 10, 5), GroupFact("b", 40, 30), GroupFact("c", 20, 20, "an output")])
    widths = [[part.width for part in row.parts] for row in bars.rows]
    unit = widths[1][0] / 30
    assert widths == [[5 * unit] * 2, [30 * unit, 10 * unit], [20 * unit]]
    assert bars.rows[2].parts[0].style == "pinned"
    assert all(row.parts[0].x + sum(w) < WIDTH for row, w in zip(bars.rows, widths, strict=True))
    assert "55 of 70 units are kept" in bars.description


def test_pinned_groups_stand_with_the_reason() -> None:
    pinned = {group.name: group.pinned for group in pruned().groups if group.pinned}
    assert pinned and rows(tree(made("one")), "pinned") == {name: [why] for name, why in pinned.items()}


def test_what_was_left_whole_on_request_is_said_to() -> None:
    model, images, _ = blobs()
    result = secateur.prune(model, images[:1], remove=0.5, method="scale", ignore="0", surrogate="uniform")
    found = rows(tree(page([result_facts(result, "x")])), "pinned")
    assert found["0"] == ["left whole, as was asked (ignore)"] and "2" not in found


def test_bounds_without_an_end_are_shown_as_such() -> None:
    outputs = (OutputFact(0, math.inf, 1.0), OutputFact(1, 2.0, 1.0), OutputFact(2, math.inf, math.inf))
    figures = (Figure("drift", None, math.inf, "number"),)
    root = tree(page([Facts("x", figures=figures, outputs=outputs)]))
    widths = [float(bar.get("width", "")) for bar in root.iter("rect") if float(bar.get("x") or 0) > 100]
    assert all(0 <= width <= WIDTH for width in widths) and len(widths) == 6
    assert rows(root, "outputs")["2"] == ["inf", "inf"] and rows(root, "figures")["drift"][1] == "inf"


def test_the_inputs_that_moved_most_are_those_of_the_verdict() -> None:
    """The largest change of all is the drift that the verdict states, which was measured elsewhere."""
    facts = with_moved(Facts("x"), blobs()[0], pruned().model, pruned().recipe, blobs()[1][:1])
    verdict = pruned().verdict
    assert verdict is not None
    assert max(output.largest for output in facts.outputs) == pytest.approx(verdict.drift, rel=1e-5)
    assert facts.moved[0].moved == pytest.approx(verdict.drift, rel=1e-5)
    moves = [row.moved for row in facts.moved]
    assert len(moves) == 12 and moves == sorted(moves, reverse=True)


def test_the_same_on_inputs_of_a_users_own() -> None:
    model, images, _ = blobs()
    result = secateur.prune(model, images[:1], remove=0.5, calibration=images, samples=64, surrogate="none")
    facts = with_moved(
        Facts("x"), model, result.model, result.recipe, images[:1], Calibration(images, (0.0, 1.0))
    )
    assert result.verdict is not None and result.verdict.basis == "inputs kept apart"
    assert facts.moved[0].moved == pytest.approx(result.verdict.drift, rel=1e-5)
    other = with_moved(
        Facts("x"), model, result.model, result.recipe, images[:1], Calibration(images[:90], (0.0, 1.0))
    )
    assert other == Facts("x")  # not the run's inputs


def test_an_evaluation_names_the_inputs_and_outputs_that_move_most() -> None:
    """By hand: the models differ in the bias of output 2 alone, and by x₀ in output 1."""
    first, second = nn.Linear(2, 3).eval(), nn.Linear(2, 3).eval()
    with torch.no_grad():
        first.weight.zero_(), first.bias.zero_()
        second.weight.zero_(), second.bias.copy_(torch.tensor([0.0, 0.0, 0.5]))
        second.weight[1, 0] = 1.0
    images = torch.tensor([[0.25, 0.0], [1.0, 0.0], [0.75, 0.0]])
    found = secateur.evaluate(second, images, torch.tensor([0, 1, 2]), original=first)
    assert [(row.output, row.largest, row.median) for row in found.output_drifts] == [
        (0, 0.0, 0.0),
        (1, 1.0, 0.75),
        (2, 0.5, 0.5),
    ]
    assert [(row.number, row.moved, row.before, row.after, row.label) for row in found.moved_most] == [
        (1, 1.0, "0", "1", "1"),
        (2, 0.75, "0", "1", "2"),
        (0, 0.5, "0", "2", "0"),
    ]


def test_a_certificate_in_words() -> None:
    found, text = certified(), plain(tree(made("one")))
    assert (
        f"For every input within 0.001 (L∞) of each of 4 given inputs, no output of the pruned network differs "
        f"from the original's by more than {upward(max(found.drift))}." in text
    )
    assert found.agreement is not None
    assert f"For {found.agreement.certified:.2%} of the decisions, both networks decide" in text
    assert all(assumption in text for assumption in found.assumptions)
    proved = {output.output: output.largest for output in certificate_facts(found, "c").outputs}
    assert max(proved.values()) == max(found.drift) and len(proved) == 4


def test_bounds_are_never_written_as_more_than_they_say() -> None:
    assert number(1.00001, "at most") == "1.001" and number(0.00123456, "share at most") == "0.1235%"
    assert number(0.99996, "share at least") == "99.99%" and number(57 / 100, "share at least") == "57.00%"
    assert number(math.inf, "at most") == "infinite"


@cache
def sampled(distribution: str = "ball") -> secateur.StatisticalCertificate:
    model, images, _ = blobs()
    given = {"ball": {"eps": 0.01, "each": True}, "data": {}}[distribution]
    return secateur.certify_by_sampling(
        model,
        pruned().model,
        inputs=images[:3] if distribution == "ball" else images,
        distribution=distribution,  # type: ignore[arg-type]
        confidence=0.9,
        rate=0.1,
        margin=0.25,
        draw_seed=5,
        **given,
    )


PROOF = re.compile(r"prove|proof|certain|guarantee")


def unproved(text: str) -> bool:
    """Whether all that a text says of proofs is that there is none."""
    for denial in (
        "nothing is proved",
        "no proof",
        "without proof",
        "none of them proved",
        "Nothing is proved",
    ):
        text = text.replace(denial, "")
    return not PROOF.search(text)


@pytest.mark.parametrize("distribution", ["ball", "data"])
def test_a_statistical_certificate_in_words_that_never_call_it_a_proof(
    tmp_path: Path, distribution: str
) -> None:
    found = sampled(distribution)
    found.save(tmp_path / "s.json")
    (facts,) = facts_of_files([tmp_path / "s.json"])
    row, text = found.overall, plain(tree(page([facts])))
    assert row.changed is not None and row.changed_at_most is not None
    bound = f"At most {upward(100 * row.changed_at_most)}% of decisions change"
    assert f"{bound} ({row.changed} of {row.draws} draws)." in text
    assert "moves by more than 0.25" in text and "with a confidence of 90%" in text
    assert f"For 90% of inputs, no output moves by more than {upward(row.quantiles[1].at_most)}." in text
    assert f"{found.seed}, given by the caller" in text
    assert ("Of the ball whose decisions change most: " in text) == (distribution == "ball")
    assert not facts.proofs and not facts.assumptions and "What is proved" not in text
    assert unproved(text) and unproved(card(facts))


def test_equivalence_statements(tmp_path: Path) -> None:
    """Of a proof, its claims are proved; of statistics, they are not. Both say what is not claimed."""
    for name, found in (("p.json", certified()), ("s.json", sampled())):
        secateur.equivalence_statement(found, margin=0.25).save(tmp_path / name)
    proof, statistics = facts_of_files([tmp_path / "p.json", tmp_path / "s.json"])
    text = plain(tree(page([proof])))
    assert not proof.sampled and "No output of the pruned model differs" in text and "Proved of " in text
    text = plain(tree(page([statistics])))
    assert not statistics.proofs and "of decisions differ from the original's." in text
    assert "Declared margin, the most that an output may change: 0.25. At most" in text
    assert (
        "Compliance with a standard or a regulation." in text
        and unproved(text)
        and unproved(card(statistics))
    )
    recipe = recipe_facts(pruned().recipe, "small")
    assert not joined(recipe, statistics).warnings  # it is about the same models


def test_the_command_that_rebuilds_quotes_what_a_shell_would_obey() -> None:
    facts = recipe_facts(pruned().recipe, "x", "a b; rm -rf $HOME.json", "$(net).pt2")
    assert facts.rebuild == (
        "secateur replay '$(net).pt2' 'a b; rm -rf $HOME.json' --example-shape=6:float32 -o OUTPUT"
    )


@pytest.mark.parametrize(
    ("remove", "said"),
    [
        ("0.5", "Remove 50% of the units of each layer"),
        ("30%", "Remove 30% of the units of each layer"),
        ("macs=50%", "Remove 50% of the multiply-accumulates"),
        ("latency=3ms", "Remove what takes longer than 3ms"),
        ("latency=30%", "Remove 30% of the latency"),
        ("all", "Remove all units that the method finds"),
    ],
)
def test_what_was_asked_in_words(remove: str, said: str) -> None:
    recipe = pruned().recipe
    asked = recipe.model_copy(update={"request": recipe.request.model_copy(update={"remove": remove})})
    assert recipe_facts(asked, "x").asked.startswith(said)


def test_several_runs_are_compared() -> None:
    root = tree(made("several"))
    (section,) = (s for s in root.iter("section") if s.get("aria-labelledby") == "compared")
    columns = [plain(cell) for cell in next(section.iter("tr"))]
    assert columns == ["What", "1. small", "2. other (recommended)", "3. bare"]
    found = rows(root, "compared")
    assert found["parameters"][2] == "–" and found["parameters"][0] == found["parameters"][1]
    two = tree(page([whole(), replace(whole(), name="other")]))
    assert len([circle for circle in two.iter("circle")]) == 2


def test_points_stand_where_their_figures_are() -> None:
    def run_of(name: str, parameters: int, agreement: float) -> Facts:
        fidelity = Figure(
            "agreement with the original", None, agreement, "share", (agreement, agreement + 0.1)
        )
        return Facts(name, figures=(Figure("parameters", 200, parameters), fidelity))

    found = scatter([run_of("a", 50, 0.8), run_of("b", 100, 0.9)], picked="b")
    assert found is not None
    left = found.ticks_x[0][0]
    a, b = found.points
    assert (a.x - left) / (b.x - left) == pytest.approx(0.5, abs=1e-3)
    assert [text for _, text in found.ticks_y] == ["80.00%", "85.00%", "90.00%", "95.00%", "100.00%"]
    heights = [y for y, _ in found.ticks_y]
    assert (a.y, a.top, b.y, b.top) == pytest.approx((heights[0], heights[2], heights[2], heights[4]))
    assert [p.picked for p in found.points] == [False, True]
    assert scatter([run_of("a", 50, 0.8), Facts("b")]) is None


def test_facts_that_do_not_fit_together_are_said_to() -> None:
    first = Facts("a", model="1", result_parameters=10)
    said = joined(first, Facts("b", model="2", result_parameters=11)).warnings
    assert [text.partition(":")[0] for text in said] == [
        "a and b are about different original models",
        "a is about a model of 10 parameters, b about one of 11",
    ]
    assert not joined(first, Facts("b", model="1", result_parameters=10)).warnings


def test_what_moved_is_that_of_one_source() -> None:
    first = Facts("a", moved=(InputFact(1, 2.0),), moved_on="surrogates")
    second = Facts(
        "b", moved=(InputFact(5, 3.0),), moved_on="data", outputs=(OutputFact(0, 1.0),), outputs_on="data"
    )
    both = joined(first, second)
    assert (both.moved, both.moved_on) == (first.moved, "surrogates")
    assert (both.outputs, both.outputs_on) == (second.outputs, "data")


def test_no_facts_and_no_jinja_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="at least one run"):
        page([])
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=re.escape("pip install 'secateur[report]'")):
        check_jinja()


# --- the page -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_valid_and_loads_nothing(name: str) -> None:
    text = made(name)
    root = tree(text)
    elements = list(root.iter())
    assert not {str(e.tag) for e in elements} & {
        "script",
        "link",
        "iframe",
        "object",
        "embed",
        "form",
        "base",
    }
    for element in elements:
        for attribute, value in element.attrib.items():
            assert not str(attribute).startswith("on")
            if str(attribute) in ("src", "href"):
                assert value.startswith(("#", "data:image/png;base64,")), value
    style = plain(next(root.iter("style")))
    assert "url(" not in style and "@import" not in style
    policy = [e.get("content") for e in root.iter("meta") if e.get("http-equiv") == "Content-Security-Policy"]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


@pytest.mark.parametrize("name", PAGES)
def test_a_screen_reader_finds_its_way(name: str) -> None:
    root = tree(made(name))
    elements = list(root.iter())
    assert root.get("lang") == "en" and plain(next(root.iter("title")))
    assert {str(e.tag) for e in elements} >= LANDMARKS and len(list(root.iter("main"))) == 1
    levels = [int(e.tag[1]) for e in elements if re.fullmatch(r"h[1-6]", str(e.tag))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    ids = [e.get("id") for e in elements if e.get("id")]
    assert len(ids) == len(set(ids))
    referred = " ".join(e.get("aria-labelledby") or "" for e in elements).split()
    anchors = [e.get("href", "")[1:] for e in root.iter("a")]
    assert {*referred, *anchors} <= set(ids)
    for table in root.iter("table"):
        assert plain(next(table.iter("caption")))
        assert all(th.get("scope") in ("col", "row") for th in table.iter("th"))
    pictures = [svg for svg in root.iter("svg") if svg.get("aria-hidden") != "true"]
    assert pictures
    for svg in pictures:
        if svg is not None:
            assert (
                svg.get("role") == "img" and plain(next(svg.iter("title"))) and plain(next(svg.iter("desc")))
            )
    assert all(img.get("alt") for img in root.iter("img"))


@pytest.mark.parametrize("name", ["hostile", "several hostile"])
def test_names_from_files_are_text(name: str) -> None:
    text = made(name)
    assert not [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c != "\n"]
    assert "<script" not in text and "<img src=x" not in text
    root = tree(text)
    shown = plain(root)
    assert "<script>alert('1')</script>" in shown and "\\u202e\\x1b[2J" in shown
    assert len(list(root.iter("img"))) == (1 if name == "hostile" else 2)


def test_a_thumbnail_is_a_png_and_nothing_else() -> None:
    for bad in ("javascript:alert(1)", "data:text/html;base64,AAAA", 'data:image/png;base64,A" onload="x'):
        with pytest.raises(ValueError, match="PNG"):
            InputFact(0, 1.0, thumbnail=bad)


def test_the_same_facts_make_the_same_bytes() -> None:
    """Whenever they were made: a certificate's date and the seconds that it took are not shown."""
    later = certified().model_copy(update={"date": "2001-02-03", "seconds": 99.0})
    pages = {page([certificate_facts(found, "c")]) for found in (certified(), later)}
    again = replace(whole())
    assert len(pages) == 1 and page([whole()]) == page([again]) and card(whole()) == card(again)


def colours(css: str) -> dict[str, str]:
    return dict(re.findall(r"--(\w+): (#\w{6})", css))


def contrast(first: str, second: str) -> float:
    """As WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_is_readable_in_light_in_dark_and_on_paper() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    css = plain(next(tree(made("one")).iter("style")))
    schemes = [colours(part.partition("}")[0]) for part in css.split(":root {")[1:]]
    assert len(schemes) == 3 and "prefers-color-scheme: dark" in css and "@media print" in css
    for scheme in schemes:
        for ink in ("ink", "soft", "good", "doubt", "bad", "link"):
            for ground in ("paper", "panel"):
                assert contrast(scheme[ink], scheme[ground]) >= 4.5, (ink, ground, scheme)
        for bar in ("kept", "left", "pinned"):  # WCAG asks 3 of pictures
            assert contrast(scheme[bar], scheme["paper"]) >= 3, bar


def test_thumbnails_are_the_pictures() -> None:
    pictures = torch.zeros(2, 3, 4, 6)
    pictures[1, 0], pictures[1, 1, :, :3] = 1.0, 0.5
    uri = thumbnails(pictures, [1])[0]
    shown = Image.open(BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert shown.size == (6, 4) and shown.getpixel((0, 0)) == (255, 128, 0)
    assert shown.getpixel((5, 3)) == (255, 0, 0)
    large = thumbnails(torch.rand(1, 1, 128, 256), [0])[0]
    shown = Image.open(BytesIO(base64.b64decode(large.partition(",")[2])))
    assert shown.size == (64, 32) and shown.mode == "L"
    last = thumbnails(pictures.movedim(1, 3).repeat(1, 2, 1, 1), [1])[0]  # colours on the last axis
    assert Image.open(BytesIO(base64.b64decode(last.partition(",")[2]))).getpixel((0, 0)) == (255, 128, 0)
    assert thumbnails(torch.rand(2, 7), [0]) == [] == thumbnails(torch.rand(2, 5, 8, 8), [0])


# --- model cards, notebooks, files --------------------------------------------------------------------------


def test_a_model_card_has_valid_front_matter_and_the_figures() -> None:
    text = card(whole())
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["tags"] == ["secateur", "pruning", "quantization"]
    told = front["secateur"]
    assert told["parameters"] == pruned().after.parameters and told["verdict"] == pruned().recipe.verdict.word  # type: ignore[union-attr]
    assert (
        told["accuracy"] == evaluated().accuracy[1]
        and told["parameters_before"] == pruned().before.parameters
    )
    assert f"| parameters | {pruned().before.parameters:,} | {pruned().after.parameters:,} |" in text


def outside_code(text: str) -> str:
    """Markdown without its indented blocks, in which nothing is obeyed."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def test_names_in_a_model_card_are_text() -> None:
    text = card(hostile())
    front, body = text.split("---\n", 2)[1:]
    assert yaml.safe_load(front)["secateur"]["verdict"] == "check"
    assert not [c for c in text if unicodedata.category(c) in {"Cc", "Cf", "Cs"} and c != "\n"]
    outside = outside_code(body)
    assert "<script" not in outside and "](" not in outside.replace("\\](", "") and "https://" not in outside
    lines = [line for line in outside.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} <= {6, 4, 3, 8}  # cells stay cells


def test_results_are_tables_in_notebooks() -> None:
    groups = secateur.inspect(
        nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), torch.zeros(1, 2)
    )
    for value in (pruned(), evaluated(), certified(), groups):
        root = tree(f"<!doctype html><title>x</title>{value._repr_html_()}")
        assert len(list(root.iter("tr"))) > 2
    evil = Inspection((secateur.types.Group(HOSTILE, 2, (), HOSTILE),), {HOSTILE: HOSTILE})
    shown = evil._repr_html_()
    assert "<script" not in shown and "\u202e" not in shown


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    pruned().recipe.save(folder / "small.recipe.json")
    certified().save(folder / "cert.json")
    for name, record in (("eval.json", evaluated()), ("q.json", QUANTIZED)):
        content = record.model_dump(mode="json", exclude={"ranges"})
        (folder / name).write_text(dumps({"output": "q.onnx", **content} if name == "q.json" else content))
    return folder


def test_files_after_a_recipe_belong_to_its_run(files: Path) -> None:
    names = ("small.recipe.json", "eval.json", "cert.json", "q.json")
    (one,) = facts_of_files([files / name for name in names])
    assert one.name == "small.recipe.json" and one.proofs and one.quantisation and one.classes
    assert not one.warnings  # the certificate is about the same original, the evaluation about the same size
    assert page([one]) == page(facts_of_files([files / name for name in names]))
    two = facts_of_files([files / name for name in ("eval.json", "eval.json", "cert.json")])
    assert [bool(run.proofs) for run in two] == [False, True]
    assert two[0].name == str(files / "eval.json")  # where two files have one name, their folders tell them
    again = facts_of_files([files / name for name in ("eval.json", "small.recipe.json")])
    assert [run.name for run in again] == ["eval.json", "small.recipe.json"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "is none of the files of a run"),
        ("[1]", "is none of the files of a run"),
        ("no", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"samples": 1, "head": "logits", "cost": 5}', "is not what evaluate --json printed: cost"),
        ('{"input_set": 1, "lower": 1, "upper": 1}', "is not a certificate"),
        ('{"distribution": 1, "confidence": 1, "overall": 1}', "x.json"),
        ('{"method_text": "", "claims": 1, "not_covered": []}', "x.json"),
        (
            '{"samples": 3, "head": "logits", "cost": {"parameters": 1, "macs": 1, "bytes": 1}, '
            '"accuracy": {"1": "Infinity"}}',
            "is not what evaluate --json printed: cannot convert float infinity",
        ),
        (
            '{"recipe": 1, "units": ["a", "<b>"], "parameters": [1, 1], "macs": [2, 2]}',
            "prune --json printed: could",
        ),
        ('{"recipe": 1, "units": 1, "parameters": [1], "macs": 2}', "is not what prune --json printed"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(said)):
        facts_of_files([path])


def test_what_prune_printed_completes_a_recipe(files: Path) -> None:
    printed = {
        "recipe": "small.recipe.json",
        "units": [pruned().before.units, pruned().after.units],
        "parameters": [pruned().before.parameters, pruned().after.parameters],
        "macs": [pruned().before.macs, pruned().after.macs],
        "latency_ms": [2.0, 1.0],
        "latency_runtime": "torch",
        "shortfall": None,
        "stopped": None,
    }
    (files / "prune.json").write_text(json.dumps(printed))
    (facts,) = facts_of_files([files / "small.recipe.json", files / "prune.json"])
    figures = {figure.name: figure for figure in facts.figures}
    assert figures["MACs for one input"].before == pruned().before.macs
    assert figures["latency"].removed == 0.5


FACTORY = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()
"""


@pytest.mark.long
def test_commands_write_reports(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FACTORY)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 1, 8, 8)).astype(np.uint8), rng.integers(0, 3, 20)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)

    def typed(*words: str) -> str:
        done = run(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    shape = ("--example-shape", "1,8,8")
    typed("prune", "net:build", *shape, "-o", "small.pt2", "--samples", "32", "--remove", "50%",
          "--report", "p.html", "--model-card", "MODEL_CARD.md", "--no-latency")  # fmt: skip
    typed("evaluate", "small.pt2", "--original", "net:build", "--data", "data.npz", "--report", "e.html")
    typed("certify", "net:build", "small.pt2", *shape, "--method", "interval", "-o", "c.json",
          "--report", "c.html")  # fmt: skip
    pages = {name: tree((tmp_path / name).read_text()) for name in ("p.html", "e.html", "c.html")}
    assert len(list(pages["p.html"].iter("img"))) == 12 == len(list(pages["e.html"].iter("img")))
    rebuild = plain(next(pages["p.html"].iter("pre")))
    assert rebuild.startswith("secateur replay net:build small.recipe.json")
    typed(*rebuild.split()[1:])
    assert (tmp_path / "again-small.pt2").read_bytes()
    said = typed("report", "small.recipe.json", "c.json", "-o", "r.html", "--card", "OTHER.md")
    assert "wrote r.html" in said and "wrote OTHER.md" in said
    typed("report", "small.recipe.json", "c.json", "-o", "r.html")  # a report may be replaced
    (tmp_path / "own.html").write_text("<p>mine</p>")
    refused = run(tmp_path, "report", "small.recipe.json", "-o", "own.html")
    assert refused.returncode == 1 and "is no report that this command could have written" in refused.stderr
    assert (tmp_path / "own.html").read_text() == "<p>mine</p>"
    refused = run(tmp_path, "report", "small.recipe.json")
    assert refused.returncode == 1 and "-o report.html" in refused.stderr


@pytest.mark.slow
def test_names_of_a_real_file_are_text_in_its_report(tmp_path: Path) -> None:
    evil = '"><script>x()</script>\u202e'
    weights = [
        numpy_helper.from_array(
            np.random.default_rng(i).normal(size=(8, 8)).astype(np.float32), f"{side}{evil}"
        )
        for i, side in enumerate("ab")
    ]
    nodes = [
        helper.make_node("Gemm", ["x", f"a{evil}"], ["h"], name=f"first{evil}"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", f"b{evil}"], ["y"], name=f"second{evil}"),
    ]
    ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", 8]) for end in "xy"]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "net.onnx")
    done = run(tmp_path, "prune", "net.onnx", "--method", "scale", "--remove", "50%", "-o", '"><b>\u202e.onnx', "--no-latency",
               "--report", "r.html", "--model-card", "m.md")  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "r.html").read_text()
    root = tree(text)
    assert "<script" not in text and "\u202e" not in text and not list(root.iter("script"))
    assert plain(next(root.iter("h1"))) == 'Report on "><b>\\u202e.onnx'
    assert "a___script_x___/script__" in rows(root, "groups")  # as the reader of ONNX writes it
    outside = outside_code((tmp_path / "m.md").read_text())
    assert not [tag for tag in ("<script", "<b>", "\u202e") if tag in outside]


# --- in a browser -------------------------------------------------------------------------------------------

BROWSER = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
BROWSER_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--enable-logging=stderr",
    "--log-level=0",
)


def browsed(folder: Path, text: str, scheme: str) -> tuple[str, Image.Image]:
    """What a browser logs of a page, and a picture of it."""
    (folder / "r.html").write_text(text)
    number = {"dark": 0, "light": 1}[scheme]
    done = subprocess.run(
        [str(BROWSER), *BROWSER_ARGUMENTS, f"--user-data-dir={folder / 'profile'}",
         f"--blink-settings=preferredColorScheme={number}", "--window-size=800,600",
         f"--screenshot={folder / 'shot.png'}", (folder / "r.html").as_uri()],
        capture_output=True, text=True, timeout=240, env={**os.environ, "HOME": str(folder)},
    )  # fmt: skip
    return done.stderr, Image.open(folder / "shot.png").convert("RGB")


browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium; on Debian: apt install chromium")


@browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_message(tmp_path: Path, scheme: str) -> None:
    """The background has the colour of the scheme, and the console holds nothing."""
    said, shot = browsed(tmp_path, made("hostile"), scheme)
    assert "CONSOLE" not in said, said
    css = plain(next(tree(made("hostile")).iter("style"))).split(":root {")
    paper = colours(css[1 if scheme == "light" else 2])["paper"]
    assert "#{:02x}{:02x}{:02x}".format(*shot.getpixel((3, 3))) == paper  # type: ignore[misc]
    assert len(shot.getcolors(100_000) or ()) > 20  # there is text


@browser
@pytest.mark.slow
def test_a_browser_would_refuse_a_script_and_say_so(tmp_path: Path) -> None:
    """So that the test above can fail, and a script that came through would not run."""
    text = made("one").replace("</main>", "<script>document.body.remove()</script></main>")
    said, shot = browsed(tmp_path, text, "light")
    assert "CONSOLE" in said and len(shot.getcolors(100_000) or ()) > 20
