"""Padding is not seen: what a network says of a row is what it says of the row without it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genodiff.backbones import (
    Backbone,
    MaskedLanguageModel,
    ReverseComplementEquivariant,
    SequenceClassifier,
    StrandAveraged,
    Transformer,
    exchange_strands,
)
from genodiff.backbones.base import padding_among
from genodiff.backbones.blocks import BlockCausal
from tests.backbones.toys import (
    COMPLEMENT,
    randomized,
    small_caduceus,
    small_dimamba,
    small_transformer,
    some_tokens,
)

PAD = 4  # its own complement
LENGTH = 17
LENGTHS = (17, 1, 9, 16)

Make = Callable[..., Backbone]
MakeBlocks = Callable[..., BlockCausal]


def untied(**options: Any) -> BlockCausal:
    return small_caduceus(
        bidirectional_strategy="ew_multiply", tie_projections=False, recompute=True, **options
    )


def mamba(**options: Any) -> BlockCausal:
    return small_caduceus(bidirectional=False, **options)


def concat(**options: Any) -> BlockCausal:
    return small_dimamba(time_strategy="concat", recompute=True, **options)


def added(**options: Any) -> BlockCausal:
    return small_dimamba(time_strategy="add", residual=False, **options)


def causal_dimamba(**options: Any) -> BlockCausal:
    return small_dimamba(bidirectional=False, **options)


def timeless(**options: Any) -> BlockCausal:
    return small_transformer(None, **options)


def causal_transformer(**options: Any) -> BlockCausal:
    return small_transformer(None, causal=True, **options)


def equivariant(**options: Any) -> Backbone:
    return ReverseComplementEquivariant(small_caduceus(**options), COMPLEMENT)


def exchanged(**options: Any) -> Backbone:
    trunk = exchange_strands(small_caduceus(**options))
    return ReverseComplementEquivariant(trunk, COMPLEMENT)


def equivariant_dimamba(**options: Any) -> Backbone:
    return ReverseComplementEquivariant(small_dimamba(**options), COMPLEMENT)


def averaged(**options: Any) -> Backbone:
    return StrandAveraged(small_caduceus(**options), COMPLEMENT)


def small_bert(model_type: str = "bert", **options: Any) -> MaskedLanguageModel:
    settings = {
        **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"intermediate_size": 32, "max_position_embeddings": 64, "vocab_size": 12},
        **{"embedding_size": 16, "token_dropout": False, "local_attention": 6},
        **{"model_type": model_type, "pad_token_id": PAD, "mask_token_id": 3},
    }
    return randomized(MaskedLanguageModel(settings, 12, **options), scale=0.1)


def roberta(**options: Any) -> Backbone:
    return small_bert("roberta", **options)


def modernbert(**options: Any) -> Backbone:
    return small_bert("modernbert", **options)


def electra(**options: Any) -> Backbone:
    return small_bert("electra", **options)


def esm(**options: Any) -> Backbone:
    return small_bert("esm", **options)


CAUSAL: list[MakeBlocks] = [mamba, causal_dimamba, causal_transformer]
IN_BLOCKS: list[MakeBlocks] = [
    *(small_caduceus, untied, small_dimamba, concat, timeless, small_transformer),
]
STRANDS: list[Make] = [equivariant, exchanged, equivariant_dimamba, averaged]
RELATIVE: list[Make] = [*CAUSAL, *IN_BLOCKS, added, *STRANDS, roberta, modernbert, esm]
ALL: list[Make] = [*RELATIVE, small_bert, electra]


def of(makes: Any) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("make", makes, ids=lambda make: make.__name__)


def rows_of_tokens() -> list[Tensor]:
    """Rows of several lengths without padding."""
    tokens = some_tokens(len(LENGTHS), LENGTH)
    tokens[tokens == PAD] = 5
    return [row[:length] for row, length in zip(tokens, LENGTHS, strict=True)]


def padded(rows: list[Tensor], side: str, length: int = LENGTH + 3) -> Tensor:
    """One batch of rows, filled up at a side."""
    return torch.stack(
        [
            F.pad(row, (0, more) if side == "right" else (more, 0), value=PAD)
            for row in rows
            for more in [length - len(row)]
        ]
    )


def with_gaps(length: int = LENGTH) -> Tensor:
    """Tokens with padding anywhere, a third of them."""
    tokens = some_tokens(3, length)
    generator = torch.Generator().manual_seed(2)
    tokens[tokens == PAD] = 5
    tokens[torch.rand(tokens.shape, generator=generator) < 1 / 3] = PAD
    return tokens


def sigma_of(network: Backbone, tokens: Tensor) -> Tensor | None:
    """A noise level for every token, if there is an input for it."""
    return (tokens * 0.3 + 0.1) if network.has_time_input else None


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def embedding_of(network: Backbone) -> nn.Embedding:
    """Its tokens' vectors, wherever it has them."""
    for part in network.modules():
        if isinstance(embedding := getattr(part, "embedding", None), nn.Embedding):
            return embedding
    raise LookupError


@of(RELATIVE)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_says_what_it_says_without_its_padding(make: Make, side: str) -> None:
    network, rows = make(pad_id=PAD), rows_of_tokens()
    tokens = padded(rows, side)
    logits = network(tokens, sigma_of(network, tokens))
    assert bool(logits.isfinite().any(-1).all())
    for i, row in enumerate(rows):
        alone = network(row[None], sigma_of(network, row[None]))[0]
        # ModernBERT turns by angles in float32, which depend on where a row begins.
        tolerance = 1e-7 if make is modernbert else 1e-10
        close(logits[i][tokens[i] != PAD], alone, tolerance)


@of([small_bert, electra])
def test_where_positions_are_absolute_padding_belongs_to_the_right(make: Make) -> None:
    network, rows = make(pad_id=PAD), rows_of_tokens()
    for i, row in enumerate(rows):
        alone = network(row[None])[0]
        close(network(padded(rows, "right"))[i, : len(row)], alone)
        assert not torch.allclose(network(padded(rows, "left"))[i, -len(row) :], alone)


@of(ALL)
def test_padding_is_seen_as_published(make: Make) -> None:
    rows = rows_of_tokens()
    tokens = padded(rows, "left")
    seeing, without_id = make(pad_id=PAD, sees_padding=True), make()
    assert torch.equal(seeing.hidden(tokens), without_id.hidden(tokens))
    for i, row in enumerate(rows):
        alone = seeing.hidden(row[None])[0]
        assert not torch.allclose(seeing.hidden(tokens)[i, -len(row) :], alone)


@of(ALL)
def test_what_padding_looks_like_moves_nothing_wherever_it_is(make: Make) -> None:
    tokens = with_gaps()

    def moved(**options: Any) -> float:
        network = make(pad_id=PAD, **options)
        before, embedding = network.hidden(tokens), embedding_of(network)
        embedding.weight[PAD] = torch.linspace(-2, 1, embedding.embedding_dim)
        change = network.hidden(tokens) - before
        return float(change[tokens != PAD].abs().max())

    assert moved() < 1e-10
    assert moved(sees_padding=True) > 1e-3


@of(ALL)
def test_gradients_are_those_of_the_rows_without_their_padding(make: Make) -> None:
    network, rows = make(pad_id=PAD).requires_grad_(), rows_of_tokens()
    tokens = padded(rows, "right")

    def gradients(*batches: Tensor) -> dict[str, Tensor]:
        network.zero_grad()
        for batch in batches:
            hidden = network.hidden(batch, sigma_of(network, batch))
            hidden[batch != PAD].square().sum().backward()
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in network.named_parameters()
        }

    together, alone = gradients(tokens), gradients(*(row[None] for row in rows))
    assert any(bool(gradient.any()) for gradient in together.values())
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, alone[name], rtol=1e-9, atol=1e-9)


@of(ALL)
def test_a_row_of_nothing_but_padding_is_a_number(make: Make) -> None:
    network = make(pad_id=PAD).requires_grad_()
    tokens = some_tokens(2, LENGTH)
    tokens[tokens == PAD], tokens[1] = 5, PAD
    hidden = network.hidden(tokens)
    assert bool(hidden.isfinite().all())
    close(hidden[:1], network.hidden(tokens[:1]))
    hidden.square().sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients and all(bool(gradient.isfinite().all()) for gradient in gradients)


@of(ALL)
def test_without_padding_nothing_is_hidden(make: Make) -> None:
    tokens = padded(rows_of_tokens()[:1], "right", LENGTH)
    assert torch.equal(make(pad_id=PAD).hidden(tokens), make().hidden(tokens))


def test_padding_that_nothing_could_see_is_not_looked_for() -> None:
    tokens = padded(rows_of_tokens(), "right")
    assert padding_among(tokens, None) is None
    assert padding_among(tokens[:1, :LENGTH], PAD) is None
    assert padding_among(tokens, PAD, causal=True) is None
    for found in (padding_among(tokens, PAD), padding_among(tokens.flip(1), PAD, causal=True)):
        assert found is not None and int(found.sum()) == 4 * (LENGTH + 3) - sum(LENGTHS)
    # Vectors do not say what they stand for.
    network = small_transformer(pad_id=PAD)
    close(network.hidden(network.embedding(tokens)), small_transformer().hidden(tokens))


@pytest.mark.parametrize("causal", [False, True])
def test_compiled_code_does_not_ask_what_is_in_a_batch(
    causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, tokens = small_transformer(causal=causal, pad_id=PAD), some_tokens() + 5
    expected = network.hidden(tokens % 4)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert padding_among(tokens, PAD, causal=causal) is not None
    close(network.hidden(tokens % 4), expected)


@of(IN_BLOCKS)
@pytest.mark.parametrize("block_length", [1, 5, 17])
def test_in_blocks_a_row_says_what_it_says_without_its_padding(
    make: MakeBlocks, block_length: int
) -> None:
    network, rows = make(pad_id=PAD, block_length=block_length), rows_of_tokens()
    noised = [row.flip(0) for row in rows]
    tokens, clean = padded(noised, "right"), padded(rows, "right")
    hidden, given = network.hidden(clean), network.hidden_given(tokens, clean)
    for i, (row, other) in enumerate(zip(rows, noised, strict=True)):
        close(hidden[i, : len(row)], network.hidden(row[None])[0])
        close(given[i, : len(row)], network.hidden_given(other[None], row[None])[0])
    # At the left end blocks stay what they are if whole ones are filled up.
    x, x_clean = (padded(r[:1], "left", LENGTH + 3 * block_length) for r in (noised, rows))
    close(network.hidden(x_clean)[:, -LENGTH:], network.hidden(rows[0][None]))
    expected = network.hidden_given(noised[0][None], rows[0][None])
    close(network.hidden_given(x, x_clean)[:, -LENGTH:], expected)


@of(IN_BLOCKS)
@pytest.mark.parametrize("block_length", [2, 8])
def test_one_pass_hides_the_padding_that_blocks_one_by_one_hide(
    make: MakeBlocks, block_length: int
) -> None:
    network, clean = make(pad_id=PAD, block_length=block_length), with_gaps()
    noised = clean.flip(1)  # padded elsewhere: each half of the batch has its own
    one_pass = network.hidden_given(noised, clean)
    for start in range(0, LENGTH, block_length):
        stop = min(start + block_length, LENGTH)
        alone = network.hidden(torch.cat([clean[:, :start], noised[:, start:stop]], 1))
        close(one_pass[:, start:stop], alone[:, start:])


@of([*CAUSAL, *IN_BLOCKS])
def test_pieces_remember_where_padding_was(make: MakeBlocks) -> None:
    network, tokens = (
        make(pad_id=PAD, **({} if make in CAUSAL else {"block_length": 4})),
        with_gaps(),
    )
    memory = network.begin()
    others = torch.tensor([2, 0])
    states = [network.extend(piece, memory) for piece in tokens[:, :12].split([4, 8], dim=1)]
    apart = memory.rows(others)
    unkept = network.extend(tokens[:, 12:], memory, keep=False)
    states.append(network.extend(tokens[:, 12:], memory))
    assert torch.equal(unkept, states[-1])
    expected = network.hidden(tokens)
    close(torch.cat(states, 1), expected)
    close(network.extend(tokens[others, 12:], apart), expected[others, 12:])


@of(CAUSAL)
def test_padding_read_token_by_token_is_not_seen(make: MakeBlocks) -> None:
    network, tokens = make(pad_id=PAD), with_gaps()
    memory = network.begin()
    states = [network.extend(token, memory) for token in tokens.split(1, dim=1)]
    close(torch.cat(states, 1), network.hidden(tokens))


def test_keys_and_values_kept_of_padding_are_not_seen() -> None:
    network, tokens = small_transformer(pad_id=PAD), with_gaps()
    expected, memory = network.hidden(tokens), network.begin()
    close(network.hidden_amid(tokens, memory, 0), expected)
    close(network.hidden_amid(tokens[:, 5:9], memory, 5), expected[:, 5:9])
    # What was padding may be so no more.
    changed = tokens.clone()
    changed[:, 5:9] = 7
    network.hidden_amid(changed[:, 5:9], memory, 5)
    close(network.hidden_amid(changed, memory, 0), network.hidden(changed))


@of([small_caduceus, untied, equivariant, exchanged, averaged, timeless])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_a_classifier_does_not_see_how_far_a_batch_is_padded(make: Make, pooling: str) -> None:
    def logits(side: str, length: int, **options: Any) -> Tensor:
        network = make(pad_id=PAD, **options)
        model = randomized(SequenceClassifier(network, 3, pooling=pooling, pad_id=PAD))
        return model(padded(rows_of_tokens(), side, length))

    expected = logits("right", 64)
    close(logits("right", 200), expected)
    close(logits("left", 64), expected)
    assert not torch.allclose(logits("right", 64, sees_padding=True), expected)


def test_dropout_and_autocast_go_with_padding() -> None:
    network = Transformer(12, 16, 2, 2, dropout=0.5, pad_id=PAD)
    tokens = padded(rows_of_tokens(), "left")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert bool(network.train()(tokens).isfinite().all())
        assert bool(small_caduceus(pad_id=PAD).float()(tokens).isfinite().all())
