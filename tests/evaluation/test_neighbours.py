import json
import math
import tracemalloc
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation import nearest_stretches
from genodiff.evaluation.neighbours import (
    distinct_words,
    neighbour_differences,
    neighbours,
    neighbours_within,
)

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def dna(n: int, seed: int) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), n))


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def mutated(text: str, share: float, seed: int) -> str:
    random = np.random.default_rng(seed)
    letters = np.array(list(text))
    places = random.choice(len(text), round(share * len(text)), replace=False)
    following = {"A": "C", "C": "G", "G": "T", "T": "A"}
    letters[places] = [following[letter] for letter in letters[places]]
    return "".join(letters)


TRAIN = [dna(3000, 0), dna(5000, 1), dna(900, 2)]


def test_a_copied_stretch_is_found_where_it_was_copied() -> None:
    sample = dna(100, 3) + TRAIN[1][1000:1300] + dna(112, 4)
    found = neighbours([sample, dna(512, 5), "ACGTACG"], lambda: TRAIN)
    # By chance the copy goes on for another letter or two, at each end with probability 1/4.
    assert 300 <= found.longest[0] <= 306 and found.longest[1] < 16
    before = 100 - found.start[0]
    assert 0 <= before <= 3 and 0 <= found.end[0] - 400 <= 3
    assert found.record[0] == 1 and found.strand[0] == 1 and found.identity[0] == 1
    assert found.record_start[0] == 1000 - before
    assert found.record_end[0] - found.record_start[0] == found.end[0] - found.start[0]
    assert found.covered.tolist() == [found.longest[0] / 512, 0, 0]
    assert found.is_near.tolist() == [True, False, False] and not found.is_exact.any()
    assert (found.longest[2], found.record[2], found.strand[2], found.identity[2]) == (0, -1, 0, 0)


def test_copies_of_either_strand_are_exact() -> None:
    samples = [TRAIN[0][500:1012], reverse_complement(TRAIN[1][2000:2512]), TRAIN[2]]
    found = neighbours(samples, lambda: TRAIN)
    assert found.is_exact.all() and found.is_near.all() and (found.covered == 1).all()
    assert found.longest.tolist() == [512, 512, 900]
    assert found.record.tolist() == [0, 1, 2] and found.strand.tolist() == [1, -1, 1]
    assert found.record_start.tolist() == [500, 2000, 0]
    assert found.record_end.tolist() == [1012, 2512, 900]
    assert found.start.tolist() == [0, 0, 0] and found.end.tolist() == [512, 512, 900]


@pytest.mark.parametrize("strand", [1, -1])
def test_a_copy_with_mutations_has_its_identity(strand: int) -> None:
    copied = TRAIN[1][700:1212]
    sample = mutated(copied if strand == 1 else reverse_complement(copied), 0.05, seed=6)
    found = neighbours([sample], lambda: TRAIN)
    original = copied if strand == 1 else reverse_complement(copied)
    start, end = int(found.start[0]), int(found.end[0])
    # Mutations within two letters of an end are not worth their cost and are cut off.
    assert start <= 3 and end >= 509
    same = sum(a == b for a, b in zip(sample[start:end], original[start:end], strict=True))
    assert found.identity[0] == pytest.approx(same / (end - start))
    assert 0.94 < found.identity[0] < 0.96
    assert (found.record[0], found.strand[0]) == (1, strand)
    first = 700 + start if strand == 1 else 1212 - end
    assert (found.record_start[0], found.record_end[0]) == (first, first + end - start)
    assert found.is_near.all() and not found.is_exact.any()
    runs = "".join("." if a == b else " " for a, b in zip(sample, original, strict=True)).split()
    assert found.longest[0] == max(map(len, runs))
    assert found.covered[0] == pytest.approx(sum(len(r) for r in runs if len(r) >= 24) / 512)


def longest_common(sample: str, training: list[str]) -> int:
    """Of either strand, by looking at every pair of places."""
    best = 0
    for text in training:
        for other in (text, reverse_complement(text)):
            row = np.zeros(len(other) + 1, int)
            for letter in sample:
                same = np.frombuffer(other.encode(), np.uint8) == ord(letter)
                row[1:] = np.where(same & (letter != "N"), row[:-1] + 1, 0)
                best = max(best, int(row.max()))
    return best


def test_longest_matches_are_those_of_a_search_over_all_pairs() -> None:
    random = np.random.default_rng(7)
    training = [
        "".join(random.choice(list("ACGT"), p=[0.6, 0.2, 0.1, 0.1], size=n))
        for n in (400, 90, 700)
    ]
    training[0] = training[0][:200] + "NN" + training[0][202:]
    samples = [
        "".join(random.choice(list("ACGTN"), p=[0.6, 0.15, 0.1, 0.1, 0.05], size=150))
        for _ in range(6)
    ]
    samples += [training[0][150:260], reverse_complement(training[2][600:]) + training[1][:30]]
    found = neighbours(samples, lambda: training)
    expected = [longest_common(sample, training) for sample in samples]
    assert max(expected[:6]) >= 12 and min(expected) < 60
    assert found.longest.tolist() == [n if n >= 12 else 0 for n in expected]


def best_alignment(sample: str, training: list[str]) -> int:
    """The best local alignment without gaps, by dynamic programming over every diagonal."""
    best = 0
    for text in training:
        for other in (text, reverse_complement(text)):
            letters = np.frombuffer(other.encode(), np.uint8)
            row = np.zeros(len(other) + 1, int)
            for letter in sample:
                row[1:] = np.maximum(row[:-1] + np.where(letters == ord(letter), 1, -2), 0)
                row[0] = 0
                best = max(best, int(row.max()))
    return best


def test_the_nearest_stretch_is_the_best_local_alignment() -> None:
    samples = [mutated(TRAIN[i % 3][40 * i : 40 * i + 300], 0.02 * i, seed=i) for i in range(8)]
    samples = [reverse_complement(s) if i % 2 else s for i, s in enumerate(samples)]
    found = neighbours(samples, lambda: TRAIN)
    span = found.end - found.start
    same = np.round(found.identity * span).astype(int)
    assert (same - 2 * (span - same)).tolist() == [best_alignment(s, TRAIN) for s in samples]
    for i, sample in enumerate(samples):
        text = TRAIN[found.record[i]][found.record_start[i] : found.record_end[i]]
        text = text if found.strand[i] == 1 else reverse_complement(text)
        ours = sample[found.start[i] : found.end[i]]
        assert sum(a == b for a, b in zip(ours, text, strict=True)) == same[i]


@pytest.mark.parametrize("name", ["_PART_LETTERS", "_HITS", "_CELLS"])
def test_nothing_is_lost_between_parts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [TRAIN[1][i : i + 200] for i in range(0, 4800, 150)]
    samples += [mutated(reverse_complement(s), 0.1, 0) for s in samples]
    whole = neighbours(samples, lambda: TRAIN)
    # `genodiff.evaluation.neighbours` is also the name of a function.
    monkeypatch.setattr(nearest_stretches, name, 1000)
    parts = neighbours(iter(samples), lambda: TRAIN)
    assert parts.training_letters == whole.training_letters == 8900
    for field in ("longest", "covered", "record", "record_start", "record_end", "identity"):
        np.testing.assert_array_equal(getattr(parts, field), getattr(whole, field))


def test_samples_come_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [TRAIN[0][i : i + 100] for i in range(0, 2900, 130)] + ["NNN", "", "ACG"]
    whole = neighbours(samples, lambda: TRAIN)
    monkeypatch.setattr("genodiff.evaluation.words._BLOCK_LETTERS", 500)
    pieces = neighbours(samples, lambda: TRAIN)
    for name, values in whole._asdict().items():
        np.testing.assert_array_equal(getattr(pieces, name), values)
    assert whole.letters[-3:].tolist() == [0, 0, 3] and not whole.is_exact[-3:].any()


def test_letters_before_an_n_and_after_it_are_no_match_together() -> None:
    sample = TRAIN[0][100:150] + "N" + TRAIN[0][151:181]
    found = neighbours([sample], lambda: TRAIN)
    assert found.longest[0] == 50 and found.covered[0] == 1
    assert (found.start[0], found.end[0]) == (0, 50)


def test_sequences_that_are_joined_are_not_compared_across_their_ends() -> None:
    training = [TRAIN[0][:500], TRAIN[0][500:1000]]
    found = neighbours([TRAIN[0][450:550]], lambda: training)
    assert found.longest[0] == 50 and found.end[0] - found.start[0] == 50


def test_frequent_words_do_not_hide_a_copy() -> None:
    """A repeat that stands a hundred times, each with letters of its own around it."""
    repeat = dna(300, 8)
    training = ["".join(dna(50, 100 + i) + repeat for i in range(100)) + "A" * 5000]
    place = 60 * 350 - 20
    found = neighbours([training[0][place : place + 390], "A" * 400], lambda: training)
    assert found.is_exact.all()
    assert (found.record_start[0], found.record_end[0]) == (place, place + 390)


def test_random_sequences_are_no_copies() -> None:
    """Longest matches are as long as chance has it, and none is of 24 letters."""
    training = [dna(300_000, 9)]
    samples = [dna(200, 1000 + i) for i in range(300)]
    found = neighbours(samples, lambda: training)
    expected = math.log(2 * 200 * 300_000 * 0.75, 4)
    assert found.longest_by_chance == pytest.approx(expected, abs=0.01)
    # Nearly Gumbel's law (0.577 / log 4 above, then half a letter lost to whole ones; sd 0.93) for
    # the 188 places of a word; the few of less than 12 letters would have 11.
    mean = np.maximum(found.longest, 11).mean()
    assert mean == pytest.approx(expected + 0.42 - 0.5 + math.log(188 / 200, 4), abs=0.22)
    # 300 * 2 * 200 * 300,000 * 0.75 / 4^24 of them are expected: false alarm 1e-4.
    assert found.longest.max() < 24 and not found.covered.any() and not found.is_near.any()
    summary = found.summary()
    assert summary["near"]["confidence_95"] == [0, pytest.approx(0.0126, abs=1e-3)]
    assert json.loads(json.dumps(summary)) == summary


def test_held_out_sequences_are_the_yardstick() -> None:
    """A genome of repeats: real sequences that were held out are as near as good samples are,
    those of a model that copies are nearer."""
    repeats = [dna(200, i) for i in range(5)]

    def windows(n: int, seed: int) -> list[str]:
        return [
            mutated(repeats[(seed + i) % 5], 0.15, seed + i) + dna(200, seed + i) for i in range(n)
        ]

    training = windows(100, 10_000)
    held_out, honest = (neighbours(windows(60, seed), lambda: training) for seed in (1, 2000))
    copied = training[:15] + windows(45, 3000)
    copying = neighbours(copied, lambda: training)
    assert held_out.aligned.mean() > 0.2
    assert min(d.p_value for d in neighbour_differences(honest, held_out).values()) > 1e-3
    differences = neighbour_differences(copying, held_out)
    low, high = differences["exact"].confidence_95
    assert low < 0.25 < high and differences["exact"].p_value < 1e-3
    assert differences["longest"].p_value < 1e-3
    assert json.dumps({name: each.summary() for name, each in differences.items()})


def test_copies_among_samples_are_found_and_no_sample_is_its_own() -> None:
    samples = [dna(300, 10), dna(300, 11), dna(300, 12)]
    samples += [reverse_complement(samples[0]), mutated(samples[1], 0.05, 0)]
    found = neighbours_within(samples)
    assert found.record.tolist() == [3, 4, -1, 0, 1]
    assert found.strand.tolist() == [-1, 1, 0, -1, 1]
    assert found.is_exact.tolist() == [True, False, False, True, False]
    assert found.is_near.tolist() == [True, True, False, True, True]


def test_a_collapsed_model_is_found() -> None:
    """As many equal samples as make every word of them frequent."""
    found = neighbours_within([dna(200, 13)] * 200)
    assert found.is_exact.all()
    assert all(i != record for i, record in enumerate(found.record))


def test_palindromes_are_not_their_own_neighbours() -> None:
    half = dna(100, 14)
    found = neighbours_within([half + reverse_complement(half), dna(200, 15)])
    assert found.record.tolist() == [-1, -1]


def loop_words(samples: list[str]) -> list[list[str]]:
    return [
        [min(s[i : i + 12], reverse_complement(s[i : i + 12])) for i in range(len(s) - 11)]
        for s in samples
    ]


def test_distinct_words_are_counted_once_on_either_strand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples = [dna(60, 16), dna(80, 17), dna(100, 18)]
    samples += [reverse_complement(samples[0]), samples[1][:40] + dna(30, 19), "ACG"]
    words = loop_words(samples)
    every = [word for each in words for word in each]
    monkeypatch.setattr("genodiff.evaluation.words._BLOCK_LETTERS", 150)
    found = distinct_words(samples)
    assert found.value == pytest.approx(len(set(every)) / len(every))
    without = []
    for i in range(5):
        rest = [word for j, each in enumerate(words) if j != i for word in each]
        without.append(len(set(rest)) / len(rest))
    expected = math.sqrt(4 / 5 * ((np.array(without) - np.mean(without)) ** 2).sum())
    assert found.standard_error == pytest.approx(expected)
    assert distinct_words(samples[:1]) == (1.0, None, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neighbours([], lambda: TRAIN), "0 samples have no letter"),
        (lambda: neighbours(["ACGT"], lambda: ["NNN"]), "1 samples have no letter"),
        (lambda: neighbours_within([]), "0 samples have no letter"),
        (lambda: distinct_words(["ACGTACGTACG"]), "1 samples hold no 12 letters"),
    ],
)
def test_nothing_to_compare_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_other_training_sequences_are_no_yardstick() -> None:
    sets = [neighbours(TRAIN[:2], lambda t=t: t) for t in (TRAIN, TRAIN[:2])]
    assert len(sets) == 2
    for a, b in pairwise(sets):
        with pytest.raises(UserError, match="8,900 and 8,000 letters cannot be compared"):
            neighbour_differences(a, b)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_samples_or_the_training_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("genodiff.evaluation.words._BLOCK_LETTERS", 1 << 16)
    monkeypatch.setattr(nearest_stretches, "_PART_LETTERS", 1 << 17)
    sample, record = dna(1000, 0), dna(100_000, 1)

    def peak(n_samples: int, n_records: int) -> int:
        tracemalloc.start()
        neighbours((sample for _ in range(n_samples)), lambda: (record for _ in range(n_records)))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    few = peak(200, 4)
    # What is found takes some 100 bytes a sample.
    assert peak(800, 4) < 1.1 * few
    assert peak(200, 16) < 1.1 * few
