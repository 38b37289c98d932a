from typing import Any

import pytest
import torch

from genodiff.backbones import Transformer
from genodiff.errors import UserError
from tests.backbones.toys import small_transformer, some_tokens


def test_logits_are_zero_at_initialisation() -> None:
    logits = Transformer(12, 16, 2, 2)(some_tokens())
    assert logits.shape == (3, 17, 12)
    assert bool((logits == 0).all())


def test_no_sigma_is_sigma_zero() -> None:
    network, tokens = small_transformer(), some_tokens()
    zero = torch.zeros(3, 1, dtype=torch.float64)
    torch.testing.assert_close(network(tokens), network(tokens, zero), atol=1e-12, rtol=1e-12)
    assert float((network(tokens) - network(tokens, zero + 1)).abs().max()) > 0.1


def test_each_token_may_have_its_own_time() -> None:
    network, tokens = small_transformer(), some_tokens()
    sigma = torch.tensor([[0.1], [1.0], [3.0]], dtype=torch.float64)
    torch.testing.assert_close(
        network(tokens, sigma.expand(3, 17)), network(tokens, sigma), atol=1e-12, rtol=1e-12
    )
    one_later = sigma.expand(3, 17).clone()
    one_later[:, 4] += 1
    changed = network(tokens, one_later) - network(tokens, sigma)
    assert float(changed[:, 4].abs().max()) > 0.1


def test_causal_logits_are_unmoved_by_later_tokens() -> None:
    tokens = some_tokens()
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 12
    causal, full = small_transformer(None, causal=True), small_transformer(None)
    torch.testing.assert_close(
        causal(tokens)[:, :9], causal(changed)[:, :9], atol=1e-12, rtol=1e-12
    )
    assert bool((causal(tokens)[:, 9:] != causal(changed)[:, 9:]).any(-1).all())
    assert bool((full(tokens) != full(changed)).any(-1).all())


def test_a_sequence_does_not_depend_on_the_batch_around_it() -> None:
    network, tokens = small_transformer(), some_tokens()
    together = network(tokens)
    for i, row in enumerate(tokens):
        torch.testing.assert_close(network(row[None])[0], together[i], atol=1e-12, rtol=1e-12)


def test_the_head_acts_on_each_position_alone() -> None:
    network, tokens = small_transformer(), some_tokens()
    hidden, chosen = network.hidden(tokens), tokens > 6
    torch.testing.assert_close(
        network.head(hidden[chosen]), network(tokens)[chosen], atol=1e-12, rtol=1e-12
    )


def test_dropout_is_off_in_evaluation() -> None:
    network, tokens = small_transformer(), some_tokens()
    assert torch.equal(network(tokens), network(tokens))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network(tokens), network(tokens))


def test_norms_have_no_bias() -> None:
    names = small_transformer().state_dict()
    assert "norm.weight" in names
    assert not any("norm" in name and name.endswith("bias") for name in names)


def test_the_network_runs_under_autocast() -> None:
    network, tokens = small_transformer().float(), some_tokens()
    exact = network(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(tokens).float()
    scale = float(exact.abs().max())
    torch.testing.assert_close(rounded, exact, atol=0.05 * scale, rtol=0.05)


def test_a_network_without_time_refuses_sigma() -> None:
    network, tokens = small_transformer(None), some_tokens()
    with pytest.raises(ValueError, match="sigma is given, but this Transformer has no time input"):
        network(tokens, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="condition is given, but this Transformer has no class"):
        network(tokens, None, torch.zeros(3))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"n_heads": 3}, "d_model=16 with n_heads=3 must give heads of even width"),
        ({"n_layers": 0}, "n_layers=0 must be at least 1"),
        ({"cond_dim": 0}, "cond_dim=0 must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0 is a probability"),
    ],
)
def test_bad_options_are_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Transformer(**{"vocab_size": 12, "d_model": 16, "n_layers": 1, "n_heads": 2, **option})


def test_a_class_changes_the_logits_of_its_own_sequence_alone() -> None:
    network, tokens = small_transformer(n_classes=4), some_tokens()
    labels = torch.tensor([0, 1, 2])
    logits = network(tokens, None, labels)
    changed = network(tokens, None, torch.tensor([0, 3, 2]))
    assert float((changed - logits)[1].abs().max()) > 0.1
    torch.testing.assert_close(changed[[0, 2]], logits[[0, 2]], atol=1e-12, rtol=1e-12)
    none = network(tokens, None, torch.full((3,), 4))
    torch.testing.assert_close(none, network(tokens), atol=1e-12, rtol=1e-12)


def test_classes_need_a_condition() -> None:
    with pytest.raises(UserError, match=r"n_classes=4 needs a condition .* give cond_dim=128"):
        Transformer(12, 16, 2, 2, cond_dim=None, n_classes=4)
