"""Networks whose states are known functions of the tokens, and small ones of ours."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from numpy import ndarray
from torch import Tensor, nn

from genodiff.backbones import (
    Backbone,
    ReverseComplementEquivariant,
    SequenceClassifier,
    StrandAveraged,
)
from genodiff.data import DnaTokenizer
from genodiff.errors import UserError
from genodiff.evaluation import Embedded, Pooling, embed, embed_sequences
from genodiff.evaluation.embedding import chunking, windows
from tests.backbones.toys import (
    COMPLEMENT,
    randomized,
    small_caduceus,
    small_dimamba,
    small_transformer,
)

TOKENIZER = DnaTokenizer()
DATA_IDS = TOKENIZER.data_ids
N = 11


class Local(Backbone):
    """h[i] is the tokens from i - reach to i + reach, each by a weight, and where they begin."""

    d_model, vocab_size = 2, 12

    def __init__(self, reach: int) -> None:
        super().__init__()
        self.reach = reach
        self.dummy = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def hidden(self, tokens: Any, sigma: Any = None, condition: Any = None) -> Tensor:
        x = F.pad(tokens.double().unsqueeze(1), (self.reach, self.reach))
        weights = torch.arange(1, 2 * self.reach + 2).double().view(1, 1, -1)
        return torch.cat([F.conv1d(x, weights), tokens.double().unsqueeze(1)], 1).transpose(1, 2)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


class Decaying(Backbone):
    """h[i] = decay * h[i - 1] + token i: causal, with a memory that is never quite gone."""

    d_model, vocab_size = 1, 12

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.dummy = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def hidden(self, tokens: Any, sigma: Any = None, condition: Any = None) -> Tensor:
        states = [torch.zeros(len(tokens), dtype=torch.float64)]
        for column in tokens.double().T:
            states.append(self.decay * states[-1] + column)
        return torch.stack(states[1:], 1).unsqueeze(-1)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def bases(*lengths: int, seed: int = 0, share_of_n: float = 0.1) -> list[ndarray]:
    generator = np.random.default_rng(seed)
    kept = [share_of_n, *[(1 - share_of_n) / 4] * 4]
    return [generator.choice([N, 7, 8, 9, 10], length, p=kept) for length in lengths]


def embedded(
    network: Backbone, sequences: Sequence[ndarray], *, both: bool = True, **options: Any
) -> Embedded:
    options = {"pooling": "mean", "complement": COMPLEMENT if both else None, **options}
    with torch.no_grad():
        return embed(network, sequences, data_ids=DATA_IDS, **options)


def rc(tokens: ndarray) -> ndarray:
    return np.array(COMPLEMENT)[tokens][::-1].copy()


def small(name: str) -> Backbone:
    build = {
        "caduceus": lambda: small_caduceus(pad_id=4),
        "caduceus, causal": lambda: small_caduceus(pad_id=4, bidirectional=False),
        "caduceus in blocks": lambda: small_caduceus(pad_id=4, block_length=5),
        "caduceus that sees padding": lambda: small_caduceus(),
        "equivariant": lambda: ReverseComplementEquivariant(small_caduceus(pad_id=4), COMPLEMENT),
        "strands averaged": lambda: StrandAveraged(
            small_transformer(pad_id=4), [*COMPLEMENT], range(7, 11)
        ),
        "dimamba": lambda: small_dimamba(pad_id=4),
        "transformer": lambda: small_transformer(pad_id=4),
    }
    return build[name]().eval()


NETWORKS = [
    *("caduceus", "caduceus, causal", "caduceus in blocks", "caduceus that sees padding"),
    *("equivariant", "strands averaged", "dimamba", "transformer"),
]


def close(actual: ndarray, expected: ndarray, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(actual, expected, atol=tolerance, rtol=tolerance)


@given(length=st.integers(1, 300), chunk=st.integers(3, 60), overlap=st.integers(2, 59))
def test_every_token_is_taken_once_from_the_window_in_which_it_is_furthest_from_the_edges(
    length: int, chunk: int, overlap: int
) -> None:
    if overlap >= chunk:
        return
    cut = list(windows(length, chunk, overlap))
    assert [i for w in cut for i in range(w.first, w.stop)] == list(range(length))
    assert {w.end - w.start for w in cut} == {min(chunk, length)}
    for w in cut:
        for i in range(w.first, w.stop):
            # An edge of the sequence is none: what is behind it is shown in full, being nothing.
            def room(v: Any, i: int = i) -> float:
                left = np.inf if v.start == 0 else i - v.start
                right = np.inf if v.end == length else v.end - 1 - i
                return min(left, right) if v.start <= i < v.end else -1

            assert room(w) >= overlap // 2
            if 2 * overlap <= chunk:  # else a window may be left out for the next but one
                assert room(w) >= max(map(room, cut)) - 1


def test_one_chunk_is_one_window() -> None:
    assert list(windows(10, 10, 4)) == [(0, 10, 0, 10)]
    assert list(windows(11, 10, 4)) == [(0, 10, 0, 5), (1, 11, 5, 11)]
    assert list(windows(16, 10, 4)) == [(0, 10, 0, 8), (6, 16, 8, 16)]


@pytest.mark.parametrize(
    ("pooling", "both"), [("mean", True), ("last", True), ("none", True), ("none", False)]
)
def test_chunks_of_a_network_that_sees_no_further_than_half_their_overlap_change_nothing(
    pooling: Pooling, both: bool
) -> None:
    network, sequences = Local(reach=6), bases(500, 33, 47, 1)
    whole = embedded(network, sequences, both=both, pooling=pooling)
    assert len(whole.seams) == 0
    for chunk, overlap in ((32, 12), (64, 31), (13, 12)):
        found = embedded(
            network, sequences, both=both, pooling=pooling, chunk=chunk, overlap=overlap
        )
        close(found.vectors, whole.vectors, 1e-12)


def test_seams_show_what_is_seen_from_further() -> None:
    network, sequences = Local(reach=6), bases(500)
    # Up to 3 tokens from the seams are looked at, and the edges are 13 away.
    enough = embedded(network, sequences, chunk=64, overlap=26)
    assert len(enough.seams) == len(list(windows(500, 64, 26))) - 1 == 12
    assert (enough.seams == 0).all()
    assert (embedded(network, sequences, chunk=64, overlap=8).seams > 0.01).all()


def test_a_memory_that_decays_is_wrong_by_what_it_was_at_the_edge() -> None:
    # h = sum_k decay^k x, cut at the edge: what is left is below decay^(overlap / 2) times the
    # largest state, token 11 / (1 - decay).
    decay = 0.8
    network, sequences = Decaying(decay), bases(400, share_of_n=0)
    whole = embedded(network, sequences, both=False, pooling="none")
    for overlap in (8, 16, 32, 48):
        found = embedded(network, sequences, both=False, pooling="none", chunk=64, overlap=overlap)
        error = np.abs(found.vectors - whole.vectors).max()
        assert 1e-3 * decay ** (overlap / 2) < error < decay ** (overlap / 2) * 11 / (1 - decay)


def test_seams_give_the_difference_that_there_is() -> None:
    network, sequences = Decaying(0.9), bases(100, share_of_n=0)
    found = embedded(network, sequences, both=False, chunk=64, overlap=20)
    # One seam: of windows that begin at 0 and 36 and share 28 tokens, of which it is amid. In the
    # second the state is short by 0.9^(i - 35) times that of token 35.
    assert list(windows(100, 64, 20)) == [(0, 64, 0, 50), (36, 100, 50, 100)]
    whole = network.hidden(torch.from_numpy(sequences[0])[None])[0, :, 0].numpy()
    looked_at = np.arange(47, 53)  # 20 / 8, rounded up, on either side
    error = 0.9 ** (looked_at - 35) * whole[35]
    rms = np.sqrt(np.mean((whole[looked_at] - error) ** 2))
    close(found.seams, np.array([error.max() / rms]))


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pooled_vectors_are_the_features_of_a_classifier(name: str, pooling: Pooling) -> None:
    network = small(name)
    keeps_both = network.d_strand != network.d_model
    own = network if keeps_both else StrandAveraged(network, COMPLEMENT)
    classifier = SequenceClassifier(own, 3, pooling=pooling)
    sequences = bases(23, 40)
    found = embedded(network, sequences, pooling=pooling)
    for tokens, vector, counted in zip(sequences, found.vectors, found.counted, strict=True):
        rows = torch.from_numpy(tokens)[None]
        where = rows != N
        with torch.no_grad():
            features = classifier.features(rows, where)
        close(vector, features[0].numpy())
        assert counted == where.sum()


@pytest.mark.parametrize("name", NETWORKS)
def test_the_given_strand_alone_is_what_the_network_says_of_it(name: str) -> None:
    network, (tokens,) = small(name), bases(23)
    found = embedded(network, [tokens], both=False, pooling="none")
    with torch.no_grad():
        close(found.vectors, network.strands(torch.from_numpy(tokens)[None])[0][0].numpy())


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_sequence_and_its_reverse_complement_have_the_same_vector(
    name: str, pooling: Pooling
) -> None:
    network, (tokens,) = small(name), bases(100)
    for chunk in (None, 60):  # 60: two windows, which share 20
        given, opposite = embedded(network, [tokens, rc(tokens)], pooling=pooling, chunk=chunk)[0]
        close(given, opposite)


@pytest.mark.parametrize("name", NETWORKS)
def test_tokens_of_a_reverse_complement_have_the_same_vectors_in_its_order(name: str) -> None:
    network, (tokens,) = small(name), bases(37)
    given, opposite = (
        embedded(network, [row], pooling="none").vectors for row in (tokens, rc(tokens))
    )
    close(given, opposite[::-1])


@pytest.mark.parametrize(
    ("name", "pooling"),
    [*((name, "none") for name in NETWORKS), ("caduceus", "mean"), ("caduceus", "last")],
)
def test_what_is_around_a_sequence_changes_nothing(name: str, pooling: Pooling) -> None:
    network, sequences = small(name), bases(23, 5, 23, 90, 1, 64)
    options: dict[str, Any] = {"pooling": pooling, "chunk": 60, "overlap": 10}
    together = embedded(network, sequences, **options)
    alone = [embedded(network, [tokens], **options) for tokens in sequences]
    close(together.vectors, np.concatenate([each.vectors for each in alone]))
    assert together.seams.shape == (2,)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_n_does_not_count_and_nothing_but_n_has_no_vector(pooling: Pooling) -> None:
    network = Local(reach=0)
    sequences = [np.array([N, 7, 8, N]), np.array([N, N]), np.array([N] * 100 + [9] + [N] * 100)]
    found = embedded(network, sequences, both=False, pooling=pooling, chunk=10, overlap=4)
    assert found.counted.tolist() == [2, 0, 1]
    expected = 7.5 if pooling == "mean" else 8
    close(found.vectors, np.array([[expected] * 2, [np.nan] * 2, [9, 9]]))


def test_last_is_the_end_of_each_strand() -> None:
    tokens = np.array([N, 7, 7, 8, 9, N])
    found = embedded(Decaying(0.5), [tokens], pooling="last")
    given = 9 + 8 / 2 + 7 / 4 + 7 / 8 + N / 16
    opposite = 10 + 10 / 2 + 9 / 4 + 8 / 8 + N / 16
    close(found.vectors, np.array([[(given + opposite) / 2]]))


def test_only_the_windows_that_count_are_read() -> None:
    class Counting(Local):
        read = 0

        def hidden(self, tokens: Any, sigma: Any = None, condition: Any = None) -> Tensor:
            self.read += tokens.numel()
            return super().hidden(tokens)

    (tokens,) = bases(1000)
    for pooling, windows_read in (("last", 2), ("mean", 16), ("none", 16)):
        network = Counting(1)
        embedded(network, [tokens], pooling=pooling, chunk=100, overlap=40)
        assert network.read == windows_read * 2 * 100


def test_strings_are_read_in_blocks_by_a_model_that_is_given_back_as_it_was() -> None:
    network = small_caduceus(pad_id=4).train()
    letters = ["ACGTNNACGT", "TTTTACCA", "ACGTNNACGT", "A", "GATTACA"]
    expected = embedded(network.eval(), [TOKENIZER.encode(text) for text in letters]).vectors
    network.train()
    for batch_size in (2, 256):
        found = embed_sequences(network, TOKENIZER, iter(letters), batch_size=batch_size)
        close(found, expected)
        assert network.training
    last = embed_sequences(network, TOKENIZER, letters, pooling="last")
    assert not np.allclose(last, expected)


def test_strings_without_a_base_are_named() -> None:
    network = small_caduceus()
    with pytest.raises(UserError, match="sequence 4 has no token that counts"):
        embed_sequences(network, TOKENIZER, ["A", "C", "G", "NN"], batch_size=3)
    with pytest.raises(UserError, match="nothing to embed"):
        embed_sequences(network, TOKENIZER, [])


def test_chunks_that_cannot_be_are_refused() -> None:
    network = randomized(small_caduceus())
    assert chunking(network) == (65536, 16384)
    assert chunking(network, 100) == (100, 25)
    for chunk, overlap in ((8, 8), (8, 9), (8, 1), (8, 0), (0, None), (-4, 2), (4, None)):
        with pytest.raises(UserError, match=rf"chunk={chunk} overlap=.*have to be longer than"):
            chunking(network, chunk, overlap)
    network.max_length = 512
    assert chunking(network) == (512, 128)
    with pytest.raises(UserError, match="chunk=513, but this model has 512 positions"):
        chunking(network, 513)
