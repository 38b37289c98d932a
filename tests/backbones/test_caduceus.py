from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genodiff.backbones import Caduceus
from genodiff.errors import UserError
from tests.backbones.toys import small_caduceus, some_tokens


def logits_after_changing(network: nn.Module, position: int) -> tuple[Tensor, Tensor]:
    """Logits before and after the token at one position is changed."""
    tokens = some_tokens()
    changed = tokens.clone()
    changed[:, position] = (changed[:, position] + 1) % 12
    return network(tokens), network(changed)


@pytest.mark.parametrize(
    ("d_model", "n_layers", "bidirectional", "tie_projections", "count"),
    [
        (118, 4, True, True, 470_702),
        (128, 4, True, True, 541_312),
        (256, 4, True, True, 1_934_592),
        (256, 16, True, True, 7_725_312),
        (128, 4, False, True, 468_608),
        (118, 4, False, True, 403_678),
        (128, 4, True, False, 934_528),
    ],
)
def test_parameter_counts_are_the_published_ones(
    d_model: int, n_layers: int, bidirectional: bool, tie_projections: bool, count: int
) -> None:
    with torch.device("meta"):
        network = Caduceus(
            12,
            d_model,
            n_layers,
            bidirectional=bidirectional,
            tie_projections=tie_projections,
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == count


@pytest.mark.parametrize(("vocab_size", "padded"), [(8, 8), (12, 16), (17, 24)])
def test_the_vocabulary_is_padded(vocab_size: int, padded: int) -> None:
    network = Caduceus(vocab_size, 8, 1)
    assert network.vocab_size == padded
    assert network(torch.zeros(1, 5, dtype=torch.long)).shape == (1, 5, padded)


def test_one_direction_is_unmoved_by_later_tokens() -> None:
    before, after = logits_after_changing(small_caduceus(bidirectional=False), 9)
    assert torch.equal(before[:, :9], after[:, :9])
    assert bool((before[:, 9:] != after[:, 9:]).any(-1).all())


def test_two_directions_see_the_whole_sequence() -> None:
    before, after = logits_after_changing(small_caduceus(), 9)
    assert bool((before != after).any(-1).all())


def test_a_sequence_does_not_depend_on_the_batch_around_it() -> None:
    network, tokens = small_caduceus(), some_tokens()
    together = network(tokens)
    for i, row in enumerate(tokens):
        # Products of other shapes are summed in another order.
        torch.testing.assert_close(network(row[None])[0], together[i], atol=1e-12, rtol=1e-12)


def test_the_head_acts_on_each_position_alone() -> None:
    network, tokens = small_caduceus(), some_tokens()
    hidden = network.hidden(tokens)
    assert hidden.shape == (3, 17, network.d_model)
    chosen = tokens > 6
    torch.testing.assert_close(
        network.head(hidden[chosen]), network(tokens)[chosen], atol=1e-12, rtol=1e-12
    )


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_recomputed_activations_give_equal_gradients(norm: str) -> None:
    gradients = []
    for recompute in (False, True):
        network = small_caduceus(norm=norm, recompute=recompute).requires_grad_()
        network(some_tokens()).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    for kept, recomputed in zip(*gradients, strict=True):
        assert kept is not None
        assert recomputed is not None
        assert torch.equal(kept, recomputed)


def test_recomputing_keeps_only_the_blocks_inputs() -> None:
    def saved_bytes(recompute: bool) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
            return tensor

        network = Caduceus(12, 16, 4, recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            hidden = network.hidden(some_tokens(2, 256))
        assert hidden.requires_grad
        return sum(sizes.values())

    assert saved_bytes(True) < saved_bytes(False) / 8


def test_tied_embeddings_are_one_parameter() -> None:
    tied, untied = (Caduceus(12, 8, 1, tie_embeddings=tie) for tie in (True, False))
    assert "unembedding.weight" not in tied.state_dict()
    assert untied.state_dict()["unembedding.weight"].shape == (16, 8)
    tokens = some_tokens()
    torch.testing.assert_close(tied(tokens), tied.hidden(tokens) @ tied.embedding.weight.T)


@torch.no_grad()
def test_initialisation_is_the_published_one() -> None:
    torch.manual_seed(0)
    network = Caduceus(1024, 64, 9)
    weight = network.embedding.weight
    assert abs(float(weight.std()) / 0.02 - 1) < 5 / (2 * weight.numel()) ** 0.5
    for name, parameter in network.named_parameters():
        if name.endswith("out_proj.weight"):
            # Uniform on +-1/sqrt(fan in), divided by sqrt(9 layers).
            assert 0.99 < float(parameter.abs().max()) * 3 * 128**0.5 <= 1.0001
        if name.endswith("norm.weight"):
            assert bool((parameter == 1).all())


def test_the_residual_stream_stays_in_float32_under_autocast() -> None:
    network = Caduceus(12, 16, 2)
    dtypes: dict[str, torch.dtype] = {}

    def note(name: str):
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            dtypes[name] = output.dtype

        return hook

    for i, block in enumerate(network.blocks):
        block.register_forward_hook(note(f"block {i}"))
        block.get_submodule("mixer").register_forward_hook(note(f"mixer {i}"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network(some_tokens())
    assert dtypes == {
        "mixer 0": torch.bfloat16,
        "block 0": torch.float32,
        "mixer 1": torch.bfloat16,
        "block 1": torch.float32,
    }


def test_sigma_and_condition_are_refused() -> None:
    network, tokens = small_caduceus(), some_tokens()
    with pytest.raises(ValueError, match="sigma is given, but this Caduceus has no time input"):
        network(tokens, torch.zeros(3, 1))
    with pytest.raises(ValueError, match="condition is given, but this Caduceus has no class"):
        network(tokens, None, torch.zeros(3))


@pytest.mark.parametrize("size", ["vocab_size", "d_model", "n_layers", "pad_vocab_size_multiple"])
def test_sizes_are_positive(size: str) -> None:
    sizes: dict[str, Any] = {"vocab_size": 12, "d_model": 8, "n_layers": 1, size: 0}
    with pytest.raises(UserError, match=f"{size}=0 must be at least 1; give a positive number"):
        Caduceus(**sizes)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UserError, match="norm=batch is unknown; use rms or layer"):
        Caduceus(12, 8, 1, norm="batch")
    with pytest.raises(UserError, match="bidirectional_strategy=mean is unknown"):
        Caduceus(12, 8, 1, bidirectional_strategy="mean")
