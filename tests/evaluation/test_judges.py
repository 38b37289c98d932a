"""Judges as they are read from folders, and embeddings against one text at a time."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from genodiff.errors import UserError
from genodiff.evaluation.judges import embed_texts, load_embedding, load_language_model
from tests.evaluation.toy_judges import save_bert, save_gpt2

TEXTS = ["one", "two, and a longer one", "x", "a text of more than thirty-two bytes in all"]


def test_a_causal_models_embedding_is_the_state_of_its_last_token(tmp_path: Path) -> None:
    model = save_gpt2(tmp_path)
    alone = load_embedding(tmp_path)
    assert alone.pooling == "last"
    found = embed_texts(alone, TEXTS, batch_size=3)
    assert np.array_equal(
        found, embed_texts(load_language_model(tmp_path).embedding, TEXTS, batch_size=3)
    )
    for text, vector in zip(TEXTS, found, strict=True):
        tokens = torch.tensor([alone.tokenizer(text)["input_ids"][:32]])
        with torch.no_grad():
            expected = model.transformer(tokens)[0][0, -1]
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_an_encoders_embedding_is_the_mean_over_its_tokens(tmp_path: Path) -> None:
    model = save_bert(tmp_path)
    embedding = load_embedding(tmp_path)
    assert embedding.pooling == "mean"
    for length in (5, 1024):
        found = embed_texts(embedding, TEXTS, batch_size=3, length=length)
        for text, vector in zip(TEXTS, found, strict=True):
            tokens = torch.tensor([embedding.tokenizer(text)["input_ids"][: min(length, 32)]])
            with torch.no_grad():
                expected = model.bert(tokens)[0][0].mean(0)
            np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_a_text_without_a_token_has_no_embedding(tmp_path: Path) -> None:
    save_bert(tmp_path)
    with pytest.raises(UserError, match="a text has no token"):
        embed_texts(load_embedding(tmp_path), ["a", ""])


def test_a_model_that_sees_both_sides_is_no_language_model(tmp_path: Path) -> None:
    save_bert(tmp_path)
    with pytest.raises(UserError, match="is a bert, which is no causal language model; give one"):
        load_language_model(tmp_path)


def test_a_folder_that_is_incomplete_is_refused(tmp_path: Path) -> None:
    save_gpt2(tmp_path)
    weights = tmp_path / "model.safetensors"
    contents = weights.read_bytes()
    weights.write_bytes(contents[:100])
    with pytest.raises(UserError, match="cannot be read"):
        load_language_model(tmp_path)
    weights.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        load_language_model(tmp_path)
    weights.write_bytes(contents)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_layer": 2}))
    with pytest.raises(UserError, match=r"lacks weights: transformer\.h\.1.* and \d+ more"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 200}))
    with pytest.raises(UserError, match="tokenizer has 257 tokens and the network 200"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        load_embedding(tmp_path)


def test_models_that_are_no_judges_are_refused(tmp_path: Path) -> None:
    from transformers import T5Config

    save_gpt2(tmp_path)
    T5Config(vocab_size=257).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a t5, which is no causal language model"):
        load_language_model(tmp_path)
    with pytest.raises(UserError, match="is a t5, which is no encoder"):
        load_embedding(tmp_path)


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'genodiff\[text\]'"):
        load_language_model(tmp_path)
