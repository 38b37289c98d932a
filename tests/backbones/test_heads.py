from typing import Any

import pytest
import torch
from torch import Tensor

from genodiff.backbones import (
    Backbone,
    ReverseComplementEquivariant,
    SequenceClassifier,
    StrandAveraged,
)
from genodiff.errors import UserError
from tests.backbones.toys import (
    COMPLEMENT,
    randomized,
    rc_tokens,
    small_caduceus,
    small_transformer,
    some_tokens,
)

POOLINGS = ["mean", "max", "first", "last"]


def classifier(network: Backbone, pooling: str = "mean") -> SequenceClassifier:
    return randomized(SequenceClassifier(network, 3, pooling=pooling))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


def pooled(hidden: Tensor, pooling: str) -> Tensor:
    """By hand, of one sequence (l, d)."""
    rows = list(hidden)
    by_hand: dict[str, Any] = {
        "mean": sum(rows, torch.zeros_like(rows[0])) / len(rows),
        "max": torch.stack(rows).max(0).values,
        "first": rows[0],
        "last": rows[-1],
    }
    return by_hand[pooling]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_logits_are_the_score_of_what_is_pooled(pooling: str) -> None:
    model = classifier(small_transformer(), pooling)
    tokens = some_tokens()
    hidden = model.network.hidden(tokens)
    expected = torch.stack([pooled(row, pooling) for row in hidden]) @ model.score.weight.T
    close(model(tokens), expected)


def test_padding_is_known_by_its_id() -> None:
    network, tokens = small_transformer(), some_tokens()
    tokens[:, -5:], tokens[1, 0] = 4, 4
    plain = classifier(network)
    padded = SequenceClassifier(network, 3, pad_id=4).double()
    padded.load_state_dict(plain.state_dict())
    close(padded(tokens), plain(tokens, tokens != 4))
    tokens[2] = 4
    with pytest.raises(ValueError, match="no position that counts"):
        padded(tokens)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_positions_that_do_not_count_are_not_pooled(pooling: str) -> None:
    model = classifier(small_transformer(), pooling)
    tokens = some_tokens()
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[0, 3:9], where[1, 0], where[2, ::2] = True, True, True
    hidden = model.network.hidden(tokens)
    rows = [pooled(hidden[i][where[i]], pooling) for i in range(3)]
    close(model(tokens, where), torch.stack(rows) @ model.score.weight.T)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_of_an_equivariant_network_both_strands_have_the_same_logits(pooling: str) -> None:
    model = classifier(ReverseComplementEquivariant(small_caduceus(), COMPLEMENT), pooling)
    tokens = some_tokens()
    where = torch.ones_like(tokens, dtype=torch.bool)
    where[:, :5] = False
    close(model(tokens, where), model(rc_tokens(tokens), where.flip(1)))
    assert float(model(tokens).std()) > 0.01


@pytest.mark.parametrize("pooling", POOLINGS)
def test_averaging_strands_is_the_mean_of_the_logits_of_both(pooling: str) -> None:
    network, tokens = small_caduceus(), some_tokens()
    single = classifier(network, pooling)
    both = classifier(StrandAveraged(network, COMPLEMENT), pooling)
    both.score = single.score
    close(both(tokens), (single(tokens) + single(rc_tokens(tokens))) / 2)


def test_gradients_reach_network_and_score() -> None:
    model = classifier(small_caduceus()).requires_grad_()
    model(some_tokens()).square().sum().backward()
    grads = [model.score.weight.grad, model.network.get_parameter("embedding.weight").grad]
    assert all(grad is not None and float(grad.abs().max()) > 0 for grad in grads)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UserError, match="pooling=sum is unknown; use mean, max, first, last"):
        SequenceClassifier(small_caduceus(), 3, pooling="sum")
    with pytest.raises(UserError, match="n_classes=0 must be at least 1"):
        SequenceClassifier(small_caduceus(), 0)
    with pytest.raises(ValueError, match="no position that counts; leave empty sequences out"):
        tokens = some_tokens()
        classifier(small_caduceus())(tokens, torch.zeros_like(tokens, dtype=torch.bool))
