"""`evaluate` of language models, against closed forms."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

import secateur
from secateur.cli.entry import app
from secateur.errors import InputError
from test_tokens import LENGTH, Chain, made, tokenizer_file

IDS = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]])
TABLE = torch.tensor([[1.0, 0.0], [0.0, 3.0]])


def chain(table: Tensor) -> nn.Module:
    return Chain(table).eval()


def nll(table: Tensor) -> Tensor:
    """Of each sequence, by hand: the mean of −log p(next | this)."""
    p = table.softmax(-1)
    return torch.stack([-torch.stack([p[a, b].log() for a, b in pairwise(s)]).mean() for s in IDS])


def test_perplexity_is_that_of_the_definition() -> None:
    found = secateur.evaluate(chain(TABLE), IDS, top_k=(1, 2)).language
    assert found is not None and found.perplexity is not None
    each = nll(TABLE)
    half = 1.959964 * float(each.std()) / math.sqrt(3)
    assert found.perplexity.value == pytest.approx(math.exp(float(each.mean())), rel=1e-6)
    assert found.perplexity.low == pytest.approx(math.exp(float(each.mean()) - half), rel=1e-5)
    # both rows find their own token likeliest: right where the next is the last again
    assert found.accuracy[1].value == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
    assert found.accuracy[2].value == 1.0
    assert found.agreement is None and found.kl is None and found.tokens == 4


def test_the_original_is_compared_with() -> None:
    other = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    report = secateur.evaluate(chain(other), IDS, original=chain(TABLE))
    found = report.language
    assert found is not None and found.kl is not None and found.agreement is not None
    assert found.perplexity_ratio is not None
    p, q = TABLE.softmax(-1), other.softmax(-1)
    kl = (p * (p / q).log()).sum(-1)
    assert found.kl.value == pytest.approx(float(kl[IDS].mean()), rel=1e-5)
    assert found.agreement.value == pytest.approx(float((IDS == 0).double().mean()))
    ratio = math.exp(float((nll(other) - nll(TABLE)).mean()))
    assert found.perplexity_ratio.value == pytest.approx(ratio, rel=1e-6)
    assert report.head == "next_token" and report.cost_before is not None
    assert secateur.Evaluation.model_validate_json(report.model_dump_json()) == report
    assert "perplexity, times the original's" in str(report)


def test_a_model_is_its_own_equal() -> None:
    model = made()
    ids = torch.randint(24, (6, LENGTH))
    found = secateur.evaluate(model, ids, original=model, latency=True)
    assert found.language is not None and found.language.kl is not None
    assert found.language.kl.value == pytest.approx(0.0, abs=1e-9)
    assert found.language.perplexity_ratio is not None and found.language.perplexity_ratio.value == 1.0
    assert found.cost.decode is not None
    assert found.cost.decode.prefill_ms > 0 and found.cost.decode.decode_ms is None


class Cached(nn.Module):
    """Keeps a cache as the models of transformers do: a running sum of one-hot tokens."""

    class Cache:
        def __init__(self) -> None:
            self.seen: list[Tensor] = []

        def crop(self, length: int) -> None:
            self.seen = self.seen[:length]

    def forward(self, ids: Tensor, past_key_values: Cache | None = None, use_cache: bool = False) -> object:
        cache = self.Cache() if past_key_values is None else past_key_values
        cache.seen += list(torch.nn.functional.one_hot(ids, 4).float().unbind(1))
        logits = torch.stack(cache.seen, 1).cumsum(1)[:, -ids.shape[1] :]
        return type("Output", (), {"logits": logits, "past_key_values": cache})()


def test_decoding_is_timed_where_there_is_a_cache() -> None:
    report = secateur.evaluate(Cached().eval(), torch.randint(4, (2, 6)), latency=True)
    assert report.cost.decode is not None and report.cost.decode.decode_ms is not None
    assert "decode in ms (torch)" in str(report)


def test_of_a_model_that_looks_ahead_only_the_difference_is_told() -> None:
    model, ids = made(causal=False), torch.randint(24, (3, LENGTH))
    report = secateur.evaluate(model, ids, original=model)
    assert report.language is not None and report.language.perplexity is None
    assert report.language.agreement is not None and report.warnings
    with pytest.raises(InputError, match="predicts no next token"):
        secateur.evaluate(model, ids)


def test_what_does_not_apply_is_refused() -> None:
    with pytest.raises(InputError, match="labels: it does not apply to a language model"):
        secateur.evaluate(chain(TABLE), IDS, torch.zeros(3, dtype=torch.long))
    with pytest.raises(InputError, match=r"ids range from 0 to 2, but the model knows 2 tokens"):
        secateur.evaluate(chain(TABLE), IDS + (IDS == 1))
    with pytest.raises(InputError, match="top_k=3 does not fit"):
        secateur.evaluate(chain(TABLE), IDS, top_k=(3,))


def test_a_text_and_a_file_of_ids_on_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    secateur.save_model(tmp_path / "net.pt2", made(), torch.zeros(1, LENGTH, dtype=torch.long))
    text = tmp_path / "own.txt"
    text.write_text("the an that tent " * 20, encoding="utf-8")
    tokenizer_file(tmp_path)
    ids = secateur.data.load_text(text, tmp_path, LENGTH)
    np.save(tmp_path / "ids.npy", ids.numpy())
    reports = []
    for data in ("own.txt", "ids.npy"):
        done = CliRunner().invoke(
            app, ["evaluate", str(tmp_path / "net.pt2"), "--data", str(tmp_path / data), "--json"]
        )
        assert done.exit_code == 0, done.output
        reports.append(json.loads(done.stdout)["language"])
    assert reports[0] == reports[1] and reports[0]["tokens"] == LENGTH
