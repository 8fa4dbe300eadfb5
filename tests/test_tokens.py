"""Surrogates of models that take tokens: what is recognised, ranks, text by the model itself, text files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur
from secateur.bounds.box import input_box
from secateur.data.tokenizer import load_text, read_tokenizer, tokenizer_path
from secateur.errors import InputError
from secateur.graph.capture import capture
from secateur.surrogates import SURROGATES, Source
from secateur.surrogates.frequency import OFFSET, mean_probabilities, predicted, priors, ranked
from secateur.surrogates.text import text_of
from secateur.surrogates.writing import fill, write
from secateur.types import Tokenizer

VOCABULARY, LENGTH, WIDTH = 24, 8, 16


class Decoder(nn.Module):
    """One block of attention and a feed-forward layer; `causal` or looking both ways."""

    def __init__(self, causal: bool = True, outputs: int = VOCABULARY, pooled: bool = False) -> None:
        super().__init__()
        self.causal, self.pooled = causal, pooled
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH)
        self.head = nn.Linear(WIDTH, outputs)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tokens(ids) + self.positions
        q, k, v = (y.unsqueeze(1) for y in self.qkv(x).chunk(3, -1))
        x = x + F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).squeeze(1)
        x = x + self.down(F.gelu(self.up(x)))
        return self.head(x.mean(1) if self.pooled else x)


class Chain(nn.Module):
    """The next token depends on the last one alone: scores are the rows of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.tokens = nn.Embedding.from_pretrained(table)
        self.mix = nn.Linear(len(table), len(table), bias=False)
        self.mix.weight = nn.Parameter(torch.eye(len(table)))

    def forward(self, ids: Tensor) -> Tensor:
        return self.mix(self.tokens(ids))


def source(
    model: nn.Module, tokenizer: Tokenizer | None = None, length: int = LENGTH, seed: int = 0
) -> Source:
    graph = capture(model.eval(), torch.zeros(1, length, dtype=torch.long))
    box = input_box(graph, (0.0, 1.0), dtype=torch.float32)
    return Source(graph, box, torch.Generator().manual_seed(seed), tokenizer=tokenizer)


def made(causal: bool = True, **given: int) -> Decoder:
    torch.manual_seed(0)
    return Decoder(causal, **given).eval()


# --- what is recognised -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        (made(), "causal"),
        (made(causal=False), "masked"),
        (made(outputs=5), "other"),
        (made(outputs=3, pooled=True), "other"),
    ],
)
def test_the_model_alone_tells_what_it_does_with_tokens(model: nn.Module, kind: str) -> None:
    found = text_of(capture(model, torch.zeros(1, LENGTH, dtype=torch.long)))
    assert found is not None
    assert (found.index, found.vocabulary, found.length, found.kind) == (0, VOCABULARY, LENGTH, kind)


def test_pictures_are_no_text() -> None:
    assert text_of(capture(nn.Linear(4, 2).eval(), torch.zeros(1, 4))) is None


# --- ranks --------------------------------------------------------------------------------------------------


def test_ranks_fall_off_as_zipf_says() -> None:
    p = ranked([2, 0], 4)
    weights = [1 / OFFSET, 1 / (1 + OFFSET)]
    assert p.tolist() == pytest.approx([weights[1] / sum(weights), 0, weights[0] / sum(weights), 0])


def test_the_shares_of_a_chain_are_those_that_it_settles_at() -> None:
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    found = predicted(source(Chain(shares.log().expand(4, 4).clone()), length=4))
    assert found.tolist() == pytest.approx(shares.tolist(), abs=1e-5)


def test_ids_that_stand_for_no_text_are_never_drawn() -> None:
    known = Tokenizer(order=tuple(range(3, VOCABULARY)), mask=0, start=(1,), end=(2,))
    for causal in (True, False):
        for name in ("auto", "ranks"):
            found = SURROGATES[name](source(made(causal), known), 12)
            ids = found.inputs[0]
            assert (
                ids[:, 1:-1].min() >= 3 and set(ids[:, 0].tolist()) == {1} and set(ids[:, -1].tolist()) == {2}
            )


def test_without_scores_the_lengths_of_embeddings_rank() -> None:
    model = made(outputs=3, pooled=True)
    with torch.no_grad():
        model.tokens.weight.copy_(torch.arange(1.0, VOCABULARY + 1)[:, None].expand(-1, WIDTH))
    found = priors(source(model))
    assert list(found) == ["apart", "along", "short", "long", "even"]
    assert int(found["short"].argmax()) == 0 and int(found["long"].argmax()) == VOCABULARY - 1


def test_a_tokenizer_ranks_where_the_model_does_not_score() -> None:
    order = tuple(range(VOCABULARY))[::-1]
    found = priors(source(made(outputs=3, pooled=True), Tokenizer(order=order)))
    assert list(found) == ["merges"] and found["merges"].argsort(descending=True).tolist() == list(order)
    samples = SURROGATES["ranks"](source(made(outputs=3, pooled=True), Tokenizer(order=order)), 8)
    assert samples.drawn == "tokens by merges"


# --- text by the model itself -------------------------------------------------------------------------------


def test_writing_gives_what_drawing_one_by_one_gives() -> None:
    torch.manual_seed(1)
    given = source(Chain(2 * torch.randn(6, 6)), length=12)
    first = torch.full((6,), 1 / 6)
    ids = write(given, 5, first)
    # the same random numbers, position by position
    again = source(Chain(given.graph.tensors["tokens.weight"]), length=12)
    generator = torch.Generator().manual_seed(0)
    start = torch.multinomial(first, 5 * 12, replacement=True, generator=generator).reshape(5, 12)
    seed = int(torch.randint(2**62, (1,), generator=generator))
    noise = torch.empty(5, 11, 6).exponential_(generator=torch.Generator().manual_seed(seed))
    table = again.graph.tensors["tokens.weight"].softmax(-1)
    expected = start.clone()
    for t in range(1, 12):
        expected[:, t] = (table[expected[:, t - 1]] / noise[:, t - 1]).argmax(-1)
    assert torch.equal(ids, expected)


@pytest.mark.judged
def test_written_text_has_the_pairs_that_the_model_likes() -> None:
    """Of a chain that nearly always counts upward, so does the text."""
    table = torch.full((8, 8), -6.0)
    table[torch.arange(8), (torch.arange(8) + 1) % 8] = 6.0
    samples = SURROGATES["auto"](source(Chain(table), length=16), 64)
    ids = samples.inputs[0]
    follows = (ids[:, 1:] == (ids[:, :-1] + 1) % 8).double().mean()
    assert follows > 0.99
    assert "64 sequences written in 16 passes at temperature 1" in samples.drawn


def test_masked_tokens_are_filled_with_what_the_model_expects() -> None:
    """A model that expects token 5 everywhere but keeps what it sees with odds of one half."""
    table = 2 * torch.eye(6)
    table[:, 5] += 2.0
    table[0] = torch.tensor([-9.0, 0, 0, 0, 0, 6.0])  # what it says of a mask
    model = Chain(table)
    known = Tokenizer(order=(1, 2, 3, 4, 5), mask=0)
    ids = fill(source(model, known), 64, ranked([1, 2, 3, 4, 5], 6), mask=0)
    assert (ids == 5).double().mean() > 0.9
    assert not bool((ids == 0).any())


def test_the_same_seed_writes_the_same_text() -> None:
    first, second, other = (SURROGATES["auto"](source(made(), seed=s), 8).inputs[0] for s in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["written", "ranks"])
def test_a_model_without_tokens_is_refused(name: str) -> None:
    graph = capture(nn.Linear(4, 2).eval(), torch.zeros(1, 4))
    given = Source(graph, input_box(graph, (0.0, 1.0), dtype=torch.float32), torch.Generator())
    with pytest.raises(InputError, match=f"{name} needs a model that"):
        SURROGATES[name](given, 4)


def test_pruning_says_how_text_was_made() -> None:
    result = secateur.prune(made(), torch.zeros(1, LENGTH, dtype=torch.long), remove=0.25, samples=32)
    assert result.recipe.used.drawn.endswith("first tokens by scores")
    assert result.model(torch.zeros(2, LENGTH, dtype=torch.long)).shape == (2, LENGTH, VOCABULARY)


def test_probabilities_are_means_over_all_positions() -> None:
    given = source(Chain(torch.tensor([[0.0, 0.0], [2.0, 0.0]])), length=2)
    p = mean_probabilities(given, torch.tensor([[0, 1]]))
    assert float(p[0]) == pytest.approx((0.5 + float(torch.sigmoid(torch.tensor(2.0)))) / 2)


# --- files --------------------------------------------------------------------------------------------------

MERGES = ["t h", "th e", "a n"]
WORDS = {
    "a": 0,
    "e": 1,
    "h": 2,
    "n": 3,
    "t": 4,
    "z": 5,
    "an": 6,
    "the": 7,
    "th": 8,
    "<mask>": 9,
    "<s>": 10,
    " ": 11,
}


def tokenizer_file(folder: Path, framed: bool = False) -> Path:
    template = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [10], "tokens": ["<s>"]}},
    }
    special = [
        {
            "id": i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True,
        }
        for text, i in (("<mask>", 9), ("<s>", 10))
    ]  # fmt: skip
    content = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": None, "post_processor": template if framed else None, "decoder": None,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": WORDS, "merges": MERGES,
        },
    }  # fmt: skip
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_merges_rank_before_what_is_never_merged(tmp_path: Path) -> None:
    found = read_tokenizer(tokenizer_file(tmp_path, framed=True))
    #             t  h  th e  the a  n  an, then what no merge has: z and the blank
    assert found == Tokenizer(order=(4, 2, 8, 1, 7, 0, 3, 6, 5, 11), mask=9, start=(10,))
    assert read_tokenizer(tmp_path) == found
    assert tokenizer_path(tmp_path / "model.onnx") == tmp_path / "tokenizer.json"


def test_older_files_tell_the_same(tmp_path: Path) -> None:
    plain = {text: i for text, i in WORDS.items() if i < 9}
    (tmp_path / "vocab.json").write_text(json.dumps(plain), encoding="utf-8")
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES), encoding="utf-8")
    assert read_tokenizer(tmp_path).order == (4, 2, 8, 1, 7, 0, 3, 6, 5)


def test_word_pieces_rank_by_their_number(tmp_path: Path) -> None:
    lines = ["[PAD]", "[unused0]", "[CLS]", "[SEP]", "[MASK]", "é", "the", "##s"]
    (tmp_path / "vocab.txt").write_text("\n".join(lines), encoding="utf-8")
    assert read_tokenizer(tmp_path) == Tokenizer(order=(6, 7, 1, 5), mask=4, start=(2,), end=(3,))


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"model": {}}', '{"model": 3}', '{"model": {"vocab": [1]}}']
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"tokenizer\.json is no "):
        read_tokenizer(tmp_path)


def test_a_text_is_cut_into_sequences(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    text = tmp_path / "text.txt"
    text.write_text("the an the an", encoding="utf-8")
    # the ␣ an ␣ the ␣ an
    assert load_text(text, tokenizer_file(tmp_path), 3).tolist() == [[7, 11, 6], [11, 7, 11]]
    assert load_text(text, tokenizer_file(tmp_path, framed=True), 3, limit=2).tolist() == [
        [10, 7, 11],
        [10, 6, 11],
    ]


def test_a_text_needs_its_tokenizer_and_enough_words(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the an", encoding="utf-8")
    with pytest.raises(InputError, match="the tokenizer's file is needed"):
        load_text(text, None, 4)
    pytest.importorskip("tokenizers")
    with pytest.raises(InputError, match="shorter than one sequence of 4 tokens"):
        load_text(text, tokenizer_file(tmp_path), 4)
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InputError, match="no text in UTF-8"):
        load_text(tmp_path / "latin.txt", tokenizer_file(tmp_path), 4)


def test_text_and_ids_of_ones_own_prune_alike(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    path, text = tokenizer_file(tmp_path), tmp_path / "own.txt"
    text.write_text("the an that tent " * 200, encoding="utf-8")
    ids = load_text(text, path, LENGTH)
    np.save(tmp_path / "own.npy", ids.numpy())
    example = torch.zeros(1, LENGTH, dtype=torch.long)
    digests = [
        secateur.prune(
            made(), example, remove=0.25, samples=32, calibration=own, tokenizer=path, surrogate="none"
        ).recipe.result
        for own in (text, tmp_path / "own.npy", ids)
    ]
    assert digests[0] == digests[1] == digests[2]
