"""Nats under a judge against closed forms, and against one token at a time."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genodiff.errors import UserError
from genodiff.evaluation.generative_perplexity import (
    generative_perplexity,
    published_counts,
    token_nats,
)
from genodiff.evaluation.judges import LanguageModel, load_language_model
from tests.evaluation.toy_judges import save_gpt2

TEXTS = ["one", "two, and more than the others", "", "ähm", "a text that is longer than a window"]


class Bigram(nn.Module):
    """p(x_i | x_<i) = softmax(table[x_(i-1)])."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(logits=self.table[input_ids])


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("gpt2")
    save_gpt2(folder)
    return load_language_model(folder)


@pytest.mark.parametrize("stride", [1, 3, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_windows_of_a_model_that_sees_one_token_back_are_the_whole(
    stride: int, batch_size: int
) -> None:
    generator = np.random.default_rng(0)
    table = torch.from_numpy(generator.normal(size=(5, 5)))
    rows = [generator.integers(5, size=size) for size in (30, 0, 8, 1, 9, 2, 17)]
    found = token_nats(Bigram(table), rows, window=8, stride=stride, batch_size=batch_size)
    expected = -table.float().log_softmax(-1).numpy()
    for row, nats in zip(rows, found, strict=True):
        assert len(nats) == len(row) and np.isnan(nats[:1]).all()
        np.testing.assert_allclose(nats[1:], expected[row[:-1], row[1:]], rtol=1e-5)


def test_each_token_is_told_what_its_window_holds_before_it(judge: LanguageModel) -> None:
    row = np.random.default_rng(0).integers(257, size=50)
    window, stride = 16, 5
    (found,) = token_nats(judge.network, [row], window=window, stride=stride)
    for i in range(1, 50):
        # the first window that holds it
        start = 0 if i < window else -(-(i + 1 - window) // stride) * stride
        with torch.no_grad():
            told = torch.from_numpy(row[start:i])[None]
            logits = judge.network(input_ids=told).logits[0, -1]
        expected = F.cross_entropy(logits, torch.tensor(row[i]))
        assert found[i] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_judge_to_whom_all_is_alike_pays_the_log_of_its_vocabulary(
    tmp_path: Path, batch_size: int
) -> None:
    save_gpt2(tmp_path, uniform=True)
    judge = load_language_model(tmp_path)
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    found = generative_perplexity(judge, TEXTS, window=16, batch_size=batch_size)
    assert found.tokens == n_bytes  # tokens are bytes, and the start is none of them
    assert found.nats_per_token.value == pytest.approx(math.log(257), rel=1e-6)
    assert found.nats_per_byte is not None
    assert found.nats_per_byte.value == pytest.approx(math.log(257), rel=1e-6)
    assert found.nats_per_token.standard_error == pytest.approx(0, abs=1e-6)
    assert found.summary()["value"] == pytest.approx(257, rel=1e-5)
    published = generative_perplexity(judge, TEXTS, window=16, rule="published")
    assert published.nats_per_byte is None
    windows = sum(-(-len(text.encode()) // 16) for text in TEXTS)
    assert published.tokens == n_bytes - windows


def test_errors_are_those_of_a_ratio_over_texts(judge: LanguageModel) -> None:
    one, two = (generative_perplexity(judge, [text]) for text in TEXTS[:2])
    both = generative_perplexity(judge, TEXTS[:2])
    n = np.array([one.tokens, two.tokens])
    nats = n * np.array([one.nats_per_token.value, two.nats_per_token.value])
    value = nats.sum() / n.sum()
    error = math.sqrt(2 * ((nats - value * n) ** 2).sum()) / n.sum()
    assert both.nats_per_token.value == pytest.approx(value, rel=1e-6)
    assert both.nats_per_token.standard_error == pytest.approx(error, rel=1e-4)
    assert one.nats_per_token.standard_error is None


def test_names_of_ends_are_ends_and_the_published_rule_counts_the_first() -> None:
    tokens = np.array([5, 256, 7, 256, 8, 256])
    assert published_counts(tokens, 256).tolist() == [False, True, True, False, True, False]
    assert published_counts(tokens[1:], 256).tolist() == [False, True, False, True, False]
    assert published_counts(tokens, None).tolist() == [False, *[True] * 5]


def test_an_end_in_a_text_is_one_token(judge: LanguageModel) -> None:
    (tokens,) = judge.encode(["a<|endoftext|>b<|endoftext|>"])
    assert len(tokens) == 4 and tokens[1] == tokens[3] == judge.eos_id
    assert generative_perplexity(judge, ["a<|endoftext|>b<|endoftext|>"]).tokens == 4
    found = generative_perplexity(judge, ["a<|endoftext|>b<|endoftext|>"], rule="published")
    assert found.tokens == 2


def test_a_beginning_that_a_text_has_is_not_put_in_front_again(judge: LanguageModel) -> None:
    plain = generative_perplexity(judge, ["abc", "de"], window=4)
    begun = generative_perplexity(judge, ["<|endoftext|>abc", "de"], window=4)
    assert begun == plain  # as many tokens, the same nats of each, and as many bytes
    alone = generative_perplexity(judge, ["<|endoftext|>", "de"], window=4)
    assert alone.tokens == 2


def test_without_a_token_that_begins_a_text_its_first_is_given(judge: LanguageModel) -> None:
    found = generative_perplexity(judge._replace(start_id=None), ["abc", "de"])
    assert found.tokens == 3 and found.nats_per_byte is None


def test_texts_are_cut_to_tokens(judge: LanguageModel) -> None:
    assert judge.cut(["abcdef", "ab", ""], 3) == ["abc", "ab", ""]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["", ""], {}, "none of 2 texts has a token that counts"),
        (["a"], {"rule": "published"}, "none of 1 texts has a token that counts"),
        (["a"], {"stride": 32}, "stride=32 with window=32: .* use 1 .. 31"),
        (["a"], {"stride": 4, "rule": "published"}, "stride=4: windows do not overlap under"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    judge: LanguageModel, texts: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        generative_perplexity(judge, texts, **options)


def test_a_judge_that_gives_no_number_is_refused(judge: LanguageModel) -> None:
    broken = judge._replace(network=Bigram(torch.full((257, 257), torch.nan)))
    with pytest.raises(UserError, match="NaN or infinite nats"):
        generative_perplexity(broken, ["abc"])
