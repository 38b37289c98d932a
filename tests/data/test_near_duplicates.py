"""Copies: what was planted is found, as comparing all pairs finds it."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from genodiff.data import ByteTokenizer, DnaTokenizer, TokenIds
from genodiff.data.labelled import LabelledSequences
from genodiff.data.near_duplicates import K, clusters, matches, matches_within

DNA = DnaTokenizer()
COMPLEMENT = np.array(DNA.complement)


def random_dna(random: np.random.Generator, *lengths: int) -> list[np.ndarray]:
    return [random.integers(7, 11, length) for length in lengths]


def labelled(sequences: Sequence[np.ndarray]) -> LabelledSequences:
    return LabelledSequences.of(sequences, [0] * len(sequences))


def reverse(ids: np.ndarray) -> np.ndarray:
    return COMPLEMENT[ids[::-1]]


def substituted(ids: np.ndarray, *places: int) -> np.ndarray:
    changed = ids.copy()
    changed[list(places)] = 7 + (changed[list(places)] - 6) % 4
    return changed


def distinct_words(ids: np.ndarray) -> set[tuple[int, ...]]:
    forward = [tuple(ids[i : i + K].tolist()) for i in range(len(ids) - K + 1)]
    both = [(word, tuple(COMPLEMENT[list(word[::-1])].tolist())) for word in forward]
    return {min(pair) for pair in both if 11 not in pair[0]}


def near_by_definition(sequences: Sequence[np.ndarray]) -> dict[tuple[int, int], float]:
    """The share of words in common of each near pair (i, j), i < j."""
    words = [distinct_words(ids) for ids in sequences]
    shares = {}
    for i, j in combinations(range(len(words)), 2):
        fewer = min(len(words[i]), len(words[j]))
        if fewer >= K and len(words[i] & words[j]) >= fewer / 2:
            shares[i, j] = len(words[i] & words[j]) / fewer
    return shares


def family(random: np.random.Generator) -> list[np.ndarray]:
    """Windows of few sources, cut and mutated as chance will, with repeats, N and short ones."""
    sources = random_dna(random, *[160] * 6)
    repeat = random_dna(random, 60)[0]
    found = []
    for _ in range(90):
        source = sources[random.integers(6)]
        begin = random.integers(0, 70)
        ids = source[begin : begin + random.integers(20, 100)]
        ids = substituted(ids, *random.integers(0, len(ids), random.integers(0, 4)))
        ids[random.random(len(ids)) < 0.005] = 11
        ids = np.concatenate([ids, repeat[: random.integers(60)]])
        found.append(reverse(ids) if random.random() < 0.5 else ids)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_comparing_all_pairs_finds_is_found(seed: int) -> None:
    sequences = family(np.random.default_rng(seed))
    near = near_by_definition(sequences)
    assert len(near) > 100
    train, test = labelled(sequences[:60]), labelled(sequences[60:])
    found = matches(train, test, DNA)
    for j in range(30):
        expected = max((near.get((i, 60 + j), 0.0), -i) for i in range(60))
        assert found.shared[j] == pytest.approx(expected[0])
        assert found.nearest[j] == (-expected[1] if expected[0] else -1)
    within = matches_within(train, DNA)
    for j in range(60):
        expected = max([(near.get((i, j), 0.0), -i) for i in range(j)], default=(0.0, 0))
        assert within.nearest[j] == (-expected[1] if expected[0] else -1)
    cluster = clusters(labelled(sequences), DNA)
    joined = np.arange(90)
    for i, j in near:
        joined[joined == joined[j]] = joined[i]
    assert {*zip(cluster.tolist(), joined.tolist(), strict=True)} == {
        *dict(zip(cluster.tolist(), joined.tolist(), strict=True)).items()
    }
    assert len(set(cluster.tolist())) == len(set(joined.tolist()))


def test_each_kind_of_copy_is_told() -> None:
    random = np.random.default_rng(5)
    train = random_dna(random, 250, 250, 70, 20, 0)
    test = [
        train[1],
        reverse(train[0]),
        substituted(train[0], 30, 60, 90, 120, 150, 180, 210),
        reverse(substituted(train[2], 35)),
        np.concatenate([train[1][118:], *random_dna(random, 118)]),  # 117 of 235 words are left
        np.concatenate([train[1][117:], *random_dna(random, 117)]),
        substituted(train[3], 10),  # too short for words
        train[3],
        reverse(train[3]),
        train[4],
        *random_dna(random, 250),
    ]
    found = matches(labelled(train), labelled(test), DNA)
    exact, strand = "exact", "reverse complement"
    kinds = [exact, strand, "near", "near", "", "near", "", exact, strand, exact, ""]
    assert found.kind.tolist() == kinds
    assert found.nearest.tolist() == [1, 0, 0, 2, -1, 1, -1, 3, 3, 4, -1]
    shares = [1, 1, 123 / 235, 39 / 55, 0, 118 / 235, 0, 1, 1, 1, 0]
    assert found.shared.tolist() == pytest.approx(shares)


def test_the_best_copy_counts_and_of_equal_ones_the_first() -> None:
    ids = random_dna(np.random.default_rng(6), 100)[0]
    train = [substituted(ids, 50), substituted(ids, 50), reverse(ids), ids, ids]
    found = matches(labelled(train), labelled([ids, substituted(ids, 20)]), DNA)
    assert found.kind.tolist() == ["exact", "near"] and found.nearest.tolist() == [3, 2]
    within = matches_within(labelled(train), DNA)
    strand = "reverse complement"
    assert within.kind.tolist() == ["", "exact", "near", strand, strand]
    assert within.nearest.tolist() == [-1, 0, 0, 2, 2]


def test_a_microsatellite_and_unread_bases_make_no_copies() -> None:
    random = np.random.default_rng(7)
    repeat = DNA.encode("CA" * 50)
    unread = np.full(200, 11)
    own = random_dna(random, 60, 60)
    train = [repeat, unread, np.concatenate([own[0], repeat]), np.zeros(0, np.int64)]
    test = [repeat[:80], unread[:150], np.concatenate([own[1], repeat, unread])]
    assert matches(labelled(train), labelled(test), DNA).kind.tolist() == ["", "", ""]


def test_text_is_read_in_one_direction() -> None:
    text = "The quick brown fox jumps over the lazy dog, and then it sleeps until noon."
    tokens = ByteTokenizer()
    train = labelled([tokens.encode(text)])
    test = labelled(
        [tokens.encode(t) for t in (text, text[::-1], "No: " + text[:-9], "Not that.")]
    )
    assert matches(train, test, tokens).kind.tolist() == ["exact", "", "near", ""]


def test_clusters_are_numbered_in_order_and_hold_copies_of_copies() -> None:
    a, b = random_dna(np.random.default_rng(8), 200, 200)
    sequences = [b, a[:120], reverse(b), a[80:], a[40:160], a[40:160]]
    assert clusters(labelled(sequences), DNA).tolist() == [0, 1, 0, 1, 1, 1]
    assert clusters(labelled([]), DNA).tolist() == []
    nothing, something = labelled([]), labelled([a])
    assert matches(nothing, something, DNA).kind.tolist() == [""]
    assert matches(something, nothing, DNA).kind.tolist() == []


def test_a_family_beyond_what_is_compared_is_still_one_cluster() -> None:
    # 250 windows with two of 250 bases changed: each could be compared with 249, and is with 128
    random = np.random.default_rng(9)
    source = random_dna(random, 250)[0]
    sequences = [substituted(source, *random.integers(0, 250, 2)) for _ in range(250)]
    others = random_dna(random, *[250] * 100)
    found = clusters(labelled(sequences + others), DNA)
    assert found.tolist() == [0] * 250 + [*range(1, 101)]
    test = labelled([reverse(substituted(source, 5, 100, 200)), *random_dna(random, 250)])
    assert matches(labelled(sequences + others), test, DNA).kind.tolist() == ["near", ""]


def test_words_of_sub_words_are_half_as_long() -> None:
    """Sentences of 20 tokens of a large vocabulary, one of them with another end."""
    random = np.random.default_rng(5)
    tokens = TokenIds(30_000, 29_999)
    one, other = (random.integers(0, 29_000, 20) for _ in range(2))
    changed = one.copy()
    changed[17] = 7  # 10 of 13 words of 8 tokens stay; of 16 it has 5
    found = matches(labelled([one, other]), labelled([changed, random.integers(0, 9, 5)]), tokens)
    assert found.kind.tolist() == ["near", ""] and found.nearest.tolist() == [0, -1]
    assert found.shared[0] == 10 / 13


def test_fewer_tokens_than_a_word_are_compared_as_a_whole() -> None:
    one, other = np.arange(9), np.arange(3)
    found = matches(labelled([one]), labelled([one, other]), ByteTokenizer())
    assert found.kind.tolist() == ["exact", ""]
    assert clusters(labelled([one, other, one]), ByteTokenizer()).tolist() == [0, 1, 0]
