from typing import Any

import pytest
import torch
from torch import Tensor

from genodiff.backbones import Caduceus, DiMamba
from genodiff.errors import UserError
from tests.backbones.toys import randomized, small_caduceus, small_dimamba, some_tokens

STRATEGIES = ["adaln", "add", "concat"]
SIGMA = torch.tensor([[0.1], [1.0], [3.0]], dtype=torch.float64)


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("time_strategy", STRATEGIES)
@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_the_logits_depend_on_the_time(time_strategy: Any, tie_embeddings: bool) -> None:
    network = small_dimamba(time_strategy=time_strategy, tie_embeddings=tie_embeddings)
    tokens = some_tokens()
    assert network.hidden(tokens, SIGMA).shape == (3, 17, network.d_model)
    logits = network(tokens, SIGMA)
    assert logits.shape == (3, 17, 12)
    assert bool(((logits - network(tokens, SIGMA + 1)).abs() > 1e-3).any(-1).all())
    close(network(tokens), network(tokens, 0 * SIGMA))
    close(network(tokens, SIGMA.expand(3, 17)), logits)


@pytest.mark.parametrize("time_strategy", STRATEGIES)
def test_a_sequence_does_not_depend_on_the_batch_around_it(time_strategy: Any) -> None:
    network, tokens = small_dimamba(time_strategy=time_strategy, n_classes=3), some_tokens()
    labels = torch.tensor([2, 0, 3])
    together = network(tokens, SIGMA, labels)
    for i in range(3):
        row = slice(i, i + 1)
        close(network(tokens[row], SIGMA[row], labels[row]), together[row])


def test_without_its_modulation_it_is_caduceus() -> None:
    # Gates of 1, scales and shifts of 0: the blocks are x + mixer(norm(x)).
    caduceus = small_caduceus()
    network = DiMamba(12, 12, 2, d_state=4, pad_vocab_size_multiple=8, tie_embeddings=True)
    network = network.double().eval()
    missing, extra = network.load_state_dict(caduceus.state_dict(), strict=False)
    assert not extra
    assert all("modulation" in name or name.startswith("time.") for name in missing)
    with torch.no_grad():
        for block in network.blocks:
            block.get_parameter("modulation.linear.bias")[24:] = 1
    close(network(some_tokens(), SIGMA), caduceus(some_tokens()))


def test_adding_the_time_is_caduceus_on_moved_embeddings() -> None:
    caduceus = small_caduceus()
    options = dict(d_state=4, pad_vocab_size_multiple=8, tie_embeddings=True, cond_dim=12)
    network = DiMamba(12, 12, 2, time_strategy="add", **options).double().eval()  # pyright: ignore[reportArgumentType]
    network.load_state_dict(caduceus.state_dict(), strict=False)
    tokens = some_tokens()
    shift = torch.nn.functional.silu(network.time(SIGMA))
    x = caduceus.embedding(tokens) + shift
    for block in caduceus.blocks:
        x = block(x)
    close(network.hidden(tokens, SIGMA), caduceus.norm(x))


def test_the_published_function_has_no_residual_stream() -> None:
    network = small_dimamba(time_strategy="add", residual=False)
    tokens = some_tokens()
    x = network.embedding(tokens) + torch.nn.functional.silu(network.time(SIGMA))
    for block in network.blocks:
        x = block.get_submodule("mixer")(block.get_submodule("norm")(x))
    close(network.hidden(tokens, SIGMA), network.norm(x))
    whole = small_dimamba(time_strategy="add")
    whole.load_state_dict(network.state_dict())
    assert float((whole(tokens, SIGMA) - network(tokens, SIGMA)).abs().max()) > 0.1


def test_one_direction_is_unmoved_by_later_tokens() -> None:
    network, tokens = small_dimamba(bidirectional=False), some_tokens()
    changed = tokens.clone()
    changed[:, 9] = (changed[:, 9] + 1) % 12
    before, after = network(tokens, SIGMA), network(changed, SIGMA)
    close(before[:, :9], after[:, :9])
    assert bool((before[:, 9:] != after[:, 9:]).any(-1).all())


@pytest.mark.parametrize("time_strategy", STRATEGIES)
def test_recomputed_activations_give_equal_gradients(time_strategy: Any) -> None:
    gradients = []
    for recompute in (False, True):
        network = small_dimamba(time_strategy=time_strategy, recompute=recompute).requires_grad_()
        network(some_tokens(), SIGMA).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        assert kept is not None
        assert recomputed is not None
        close(kept, recomputed)


def test_blocks_are_skipped_and_nothing_is_zero_at_initialisation() -> None:
    torch.manual_seed(0)
    network = DiMamba(12, 12, 3, d_state=4, cond_dim=8).eval().requires_grad_(False)
    tokens = some_tokens()
    expected = network.norm(network.embedding(tokens))
    torch.testing.assert_close(network.hidden(tokens, SIGMA.float()), expected)
    assert float(network(tokens, SIGMA.float()).abs().max()) > 0


def test_mixers_start_out_as_those_of_caduceus() -> None:
    torch.manual_seed(0)
    scale = [
        float(network.get_parameter("blocks.0.mixer.out_proj.weight").detach().std())
        for network in (Caduceus(12, 64, 16), DiMamba(12, 64, 16))
    ]
    assert scale[0] == pytest.approx(scale[1], rel=0.05)


def test_dropout_is_off_in_evaluation() -> None:
    network, tokens = small_dimamba(), some_tokens()
    assert torch.equal(network(tokens), network(tokens))
    network.train()
    torch.manual_seed(0)
    assert not torch.equal(network(tokens), network(tokens))


def test_extra_rows_of_the_embedding_are_extra_logits_where_the_head_is_tied() -> None:
    options: dict[str, Any] = dict(time_strategy="concat", embedding_rows=24)
    tied = small_dimamba(tie_embeddings=True, **options)
    assert tied.vocab_size == 24
    assert tied(some_tokens()).shape == (3, 17, 24)
    assert small_dimamba(**options)(some_tokens()).shape == (3, 17, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_strategy": "film"}, "time_strategy=film is unknown; use adaln, add or concat"),
        ({"time_strategy": "add", "cond_dim": 8}, "cond_dim=8 cannot be added .* use cond_dim=12"),
        ({"dropout": 1.0}, "dropout=1.0 is a probability"),
        ({"norm": "batch"}, "norm=batch is unknown; use rms or layer"),
        ({"n_classes": 0}, "n_classes=0 must be at least 1"),
        ({"embedding_rows": 3}, "embedding_rows=3 are fewer than the 12 tokens"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DiMamba(12, 12, 2, **options)


def test_a_class_is_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match="this DiMamba has no class input"):
        small_dimamba()(some_tokens(), SIGMA, torch.zeros(3, dtype=torch.long))


def test_training_moves_every_parameter() -> None:
    torch.manual_seed(0)
    network = randomized(DiMamba(12, 12, 2, d_state=4, cond_dim=12, n_classes=2)).requires_grad_()
    network(some_tokens(), SIGMA, torch.tensor([0, 1, 2])).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and float(parameter.grad.abs().max()) > 0, name
