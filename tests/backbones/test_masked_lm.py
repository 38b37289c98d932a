"""`MaskedLanguageModel` against the models of transformers themselves."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genodiff.backbones import MaskedLanguageModel, ReverseComplementEquivariant
from genodiff.diffusion import Absorbing, ContinuousNelbo, LogLinear, NetworkDenoiser, Subs
from genodiff.errors import UserError
from tests.backbones.toys import COMPLEMENT, rc_logits, rc_tokens, some_tokens

SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 20,
    "max_position_embeddings": 40,
    "pad_token_id": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "modernbert": {},
    "electra": {"embedding_size": 16},
    "esm": {"token_dropout": False, "mask_token_id": 4},
}


def config(name: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": name, **SMALL, **CONFIGS[name], **changes}


def pretrained(name: str, folder: Path, **changes: Any) -> Any:
    """A model of transformers, saved as it saves."""
    from transformers import AutoConfig, AutoModelForMaskedLM

    settings = config(name, **changes)
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(AutoConfig.for_model(**settings)).eval()
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model = pretrained(name, tmp_path)
    network = MaskedLanguageModel.from_folder(tmp_path).eval()
    tokens = some_tokens() + 5
    with torch.no_grad():
        expected = model(tokens, attention_mask=torch.ones_like(tokens)).logits
        assert torch.equal(network(tokens), expected)
        hidden = network.hidden(tokens)
        assert hidden.shape == (3, 17, network.d_model)
        torch.testing.assert_close(network.head(hidden[tokens > 9]), expected[tokens > 9])
    assert network.vocab_size == 20
    assert sum(p.numel() for p in network.parameters()) == model.num_parameters()


def test_its_own_settings_build_it_again(tmp_path: Path) -> None:
    pretrained("bert", tmp_path)
    network = MaskedLanguageModel.from_folder(tmp_path).eval()
    settings = json.loads(json.dumps(network.settings))
    again = MaskedLanguageModel(settings, vocab_size=20).eval()
    again.load_state_dict(network.state_dict())
    tokens = some_tokens()
    assert torch.equal(again(tokens), network(tokens))


def test_the_vocabulary_is_the_tokenizers_unless_the_config_has_more() -> None:
    settings = config("bert")
    assert MaskedLanguageModel(settings, vocab_size=12).vocab_size == 20
    del settings["vocab_size"]
    assert MaskedLanguageModel(settings, vocab_size=12).vocab_size == 12


def test_it_is_a_trunk_of_the_equivariant_wrapper() -> None:
    torch.manual_seed(0)
    trunk = MaskedLanguageModel(config("bert", vocab_size=12), 12).double().eval()
    network = ReverseComplementEquivariant(trunk, COMPLEMENT)
    tokens = some_tokens()
    logits = network(tokens)
    torch.testing.assert_close(network(rc_tokens(tokens)), rc_logits(logits), rtol=0, atol=1e-12)


def test_a_pre_trained_model_learns_by_masked_diffusion(tmp_path: Path) -> None:
    pretrained("bert", tmp_path)
    network = MaskedLanguageModel.from_folder(tmp_path)
    process = Absorbing(LogLinear(), 20, mask_id=4)
    model = NetworkDenoiser(network, process, Subs(20, mask_id=4))
    x0 = torch.full((8, 12), 7)  # one letter: the loss goes to 0

    def loss() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return ContinuousNelbo()(model, x0, generator=generator).mean()

    first = float(loss().detach())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < first / 10


def test_more_tokens_than_positions_are_refused() -> None:
    network = MaskedLanguageModel(config("bert"), 20)
    assert network.max_length == 40
    with pytest.raises(UserError, match="length=41, but this model has 40 positions; use 40 or"):
        network(torch.zeros(1, 41, dtype=torch.long))
    assert MaskedLanguageModel(config("roberta"), 20).max_length == 38
    assert MaskedLanguageModel(config("modernbert"), 20).max_length is None


def test_a_time_or_a_class_is_refused() -> None:
    network = MaskedLanguageModel(config("bert"), 20)
    with pytest.raises(ValueError, match="this MaskedLanguageModel has no time input"):
        network(some_tokens(), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="this MaskedLanguageModel has no class input"):
        network(some_tokens(), None, torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "llama"}, "model_type=llama is no masked language model of transformers"),
        ({}, "model_type=None is no masked language model"),
        (config("bert", vocab_size=5), "vocab_size=5 of the masked .* the tokenizer's 12; use"),
        (config("esm", token_dropout=True), "token_dropout=true divides .* token_dropout=false"),
    ],
)
def test_bad_configs_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MaskedLanguageModel(settings, vocab_size=12)


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no readable config\.json"):
        MaskedLanguageModel.from_folder(tmp_path)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    pretrained("bert", tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        MaskedLanguageModel.from_folder(tmp_path)


def test_weights_without_the_head_are_refused(tmp_path: Path) -> None:
    pretrained("bert", tmp_path).base_model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"lacks weights .* cls\.predictions"):
        MaskedLanguageModel.from_folder(tmp_path)


def test_without_transformers_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'genodiff\[text\]'"):
        MaskedLanguageModel(config("bert"), 20)
