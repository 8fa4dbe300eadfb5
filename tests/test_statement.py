"""Equivalence statements: they say what the certificate does, no more, and hold no markup of others."""

from __future__ import annotations

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import secateur
from command import run
from secateur import Statement, equivalence_statement
from secateur.certify.sampled import StatisticalCertificate
from secateur.errors import InputError
from trained import blobs


@cache
def proof() -> secateur.Certificate:
    model, x, _ = blobs()
    return secateur.certify(model, pruned(), inputs=x[:3], eps=0.02, attack_steps=5, arithmetic="real")


@cache
def pruned() -> torch.nn.Module:
    model, x, _ = blobs()
    return secateur.prune(model, x[:2], remove=0.4, method="scale").model


@cache
def statistics() -> StatisticalCertificate:
    model, x, _ = blobs()
    settings: dict[str, Any] = {"margin": 0.3, "rate": 0.02, "confidence": 0.99, "draw_seed": 4}
    return secateur.certify_by_sampling(model, pruned(), inputs=x[:3], eps=0.02, **settings)


def test_a_proof_says_what_is_proved() -> None:
    found, statement = proof(), equivalence_statement(proof(), margin=100.0)
    assert statement.method == "proof" and statement.confidence is None and statement.seed is None
    claims = {claim.quantity: claim for claim in statement.claims}
    assert found.agreement_margin is not None and found.agreement is not None and found.found is not None
    assert claims["drift"].bound == max(found.drift) and claims["drift"].observed == max(found.found)
    assert claims["agreement margin"].bound == max(found.agreement_margin.proved)
    assert claims["agreement"].bound == found.agreement.certified
    written = float(re.findall(r"more than ([\d.]+)\.$", claims["drift"].text)[0])
    assert max(found.drift) <= written <= 1.001 * max(found.drift)
    assert statement.margin is not None and statement.margin.held == "proved"
    assert statement.arithmetic.text == "real arithmetic on the stored weights"
    assert statement.arithmetic.measured is not None and statement.arithmetic.measured.dtype == "float32"
    assert statement.domain.eps == 0.02 and statement.domain.digest == found.input_set.digest
    assert any(line.startswith("Rounding") for line in statement.not_covered)


def test_a_proof_about_float32_says_what_rounding_it_includes() -> None:
    model, x, _ = blobs()
    found = secateur.certify(model, pruned(), inputs=x[:3], eps=0.02, attack_steps=0, arithmetic="float")
    statement = equivalence_statement(found)
    assert found.inference_rounding is not None and statement.arithmetic.included is not None
    assert statement.arithmetic.included == max(found.inference_rounding) > 0
    page = statement.markdown()
    assert "both models as they are run in float32, summed in any order; rounding of at most" in page
    assert "real arithmetic" not in page and "no Winograd, FFT or Strassen form" in page


def test_a_proof_in_real_arithmetic_says_why() -> None:
    model, x, _ = blobs()
    found = secateur.certify(model, model, inputs=x[:3], eps=0.02, attack_steps=0)
    text = equivalence_statement(found).arithmetic.text
    assert text.startswith("real arithmetic on the stored weights (rounding is bounded by")
    assert text.endswith("more than 10% of the drift)")


def test_a_margin_is_proved_refuted_or_open() -> None:
    found = proof()
    assert found.found is not None
    between = (max(found.found) + max(found.drift)) / 2
    said = {}
    for margin in (max(found.drift), min(found.found) / 2, between):
        about = equivalence_statement(found, margin=margin).margin
        assert about is not None
        said[about.held] = about.text
    assert said.keys() == {"proved", "refuted", "open"}
    assert "on 3 of 3 balls" in said["proved"] and "exceed the margin, on 3 of 3" in said["refuted"]
    assert "Neither proved nor refuted everywhere; it is proved on 2 of 3 balls" in said["open"]
    assert equivalence_statement(found).margin is None


def test_statistics_say_the_confidence_and_no_proof() -> None:
    found, statement = statistics(), equivalence_statement(statistics())
    assert statement.method == "statistics" and statement.confidence == 0.99
    assert (statement.seed, statement.seed_from) == (4, "caller")
    assert statement.margin is not None and statement.margin.held == "bounded"
    bounds = {claim.quantity: claim.bound for claim in statement.claims}
    assert bounds["changed decisions"] == found.overall.changed_at_most
    assert bounds["drift above the margin"] == found.overall.exceeded_at_most
    assert statement.arithmetic.text.startswith("float32 as run on cpu with torch ")
    page = statement.markdown()
    assert "With a confidence of 0.99 for all of them together; nothing is proved:" in page
    assert "Single inputs, and inputs that are chosen and not drawn" in page
    assert "real arithmetic" not in page and "given by the caller" in page


def test_a_margin_is_not_declared_after_the_draws() -> None:
    with pytest.raises(InputError, match=r"margin=0.2: of statistics, a margin is declared before the draws"):
        equivalence_statement(statistics(), margin=0.2)
    assert equivalence_statement(statistics(), margin=0.3).margin is not None


@pytest.mark.parametrize("certificate", [proof, statistics])
def test_no_statement_claims_what_standards_do(certificate: Any) -> None:
    statement = equivalence_statement(certificate())
    claimed = " ".join([statement.method_text, statement.domain.text, *(c.text for c in statement.claims)])
    assert not re.search(r"semantic|certif|complian|safe|guarantee|equivalent", claimed)
    assert any("Compliance with a standard" in line for line in statement.not_covered)


def test_it_survives_its_file_and_unknown_fields_are_refused(tmp_path: Path) -> None:
    for number, certificate in enumerate((proof(), statistics())):
        statement, path = equivalence_statement(certificate, margin=0.3), tmp_path / f"{number}.json"
        statement.save(path)
        assert Statement.load(path) == statement
        record = json.loads(path.read_text(), parse_constant=pytest.fail)
        path.write_text(json.dumps(record | {"approved": True}))
        with pytest.raises(InputError, match="is not a statement of version 1: approved"):
            Statement.load(path)
        path.write_text(json.dumps(record | {"schema_version": 7}))
        with pytest.raises(InputError, match="this statement is of version 7, which is newer"):
            Statement.load(path)
    with pytest.raises(InputError, match=r"a statement is a \.json or an \.md file"):
        statement.save(tmp_path / "page.html")


def test_text_of_others_is_no_markup(tmp_path: Path) -> None:
    hostile = tmp_path / "a|b<img src=x>[c](d)`*\x1b[2J.onnx"
    hostile.write_bytes(b"model")
    statement = equivalence_statement(proof(), original=hostile, pruned=tmp_path / "none", command="x\n# y")
    assert statement.original.sha256 == hashlib.sha256(b"model").hexdigest() and not statement.pruned.file
    page = statement.markdown()
    assert "<img" not in page and "\x1b" not in page and "[c](d)" not in page and "\n# y" not in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 3 for row in rows)


@pytest.mark.slow
def test_the_command_writes_both_forms(tmp_path: Path) -> None:
    model, x, _ = blobs()
    secateur.save_model(tmp_path / "net.pt2", model, x[:2])
    secateur.save_model(tmp_path / "small.pt2", pruned(), x[:2])
    np.save(tmp_path / "x.npy", x[:4].numpy())
    words = ("certify", "net.pt2", "small.pt2", "--data", "x.npy", "--eps", "0.01", "--margin", "0.5")
    done = run(tmp_path, *words, "--arithmetic", "float", "--statement", "s.json", "-o", "c.json")
    assert done.returncode == 0, done.stderr
    assert "in float32 arithmetic; rounding of at most" in done.stdout
    assert (
        "measured, no bound" in done.stdout and "margin above which both models decide alike" in done.stdout
    )
    statement = Statement.load(tmp_path / "s.json")
    assert statement.pruned.sha256 == hashlib.sha256((tmp_path / "small.pt2").read_bytes()).hexdigest()
    assert statement.command.startswith("secateur certify net.pt2 small.pt2") and statement.margin is not None
    done = run(tmp_path, *words, "--confidence", "0.99", "--rate", "0.05", "--statement", "s.md")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.md").read_text().startswith("# Equivalence statement\n")
    done = run(tmp_path, *words, "--confidence", "0.99", "--arithmetic", "real")
    assert done.returncode == 1 and "--arithmetic is about proofs" in done.stderr
    done = run(tmp_path, "certify", "net.pt2", "small.pt2", "--budget", "1s", "--attack-steps", "5")
    assert done.returncode == 0 and "the input box, split (" in done.stdout, done.stderr
    done = run(tmp_path, *words, "--statement", "small.pt2")
    assert done.returncode == 1 and "must end in .json or .md" in done.stderr
