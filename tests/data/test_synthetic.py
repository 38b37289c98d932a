import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from genodiff.data import DnaTokenizer, Genome, Split, SyntheticGenome, read_bed
from genodiff.errors import UserError

COMPLEMENT = np.array(DnaTokenizer.complement)


def tiny(**options: float) -> SyntheticGenome:
    return SyntheticGenome(
        **{
            **{"n_motifs": 2, "motif_length": 3, "motif_fraction": 0.4, "mutation_rate": 0.2},
            **{"gc": 0.3, "seed": 5},
            **options,
        }
    )


def all_windows(length: int) -> np.ndarray:
    return np.array(list(itertools.product(range(7, 11), repeat=length)), dtype=np.uint8)


def enumerated(law: SyntheticGenome, ids: np.ndarray) -> float:
    """p of one window: the sum over every way to lay blocks over it."""
    bases = [int(i) - 7 for i in ids]
    n_kinds, width = law.motifs.shape
    rate, eps = law.block_rate, law.mutation_rate

    def emission(kind: int, place: int, base: int) -> float:
        return 1 - eps if law.motifs[kind, place] == base else eps / 3

    def blocks_from(t: int) -> float:
        if t >= len(bases):
            return 1.0
        total = (1 - rate) * law.background[bases[t]] * blocks_from(t + 1)
        return total + sum(rate / n_kinds * motif_from(k, 0, t) for k in range(n_kinds))

    def motif_from(kind: int, place: int, t: int) -> float:
        inside = range(min(width - place, len(bases) - t))
        here = np.prod([emission(kind, place + i, bases[t + i]) for i in inside])
        return float(here) * blocks_from(t + width - place)

    mean_block = 1 - rate + rate * width
    first_is_background = (1 - rate) / mean_block * law.background[bases[0]] * blocks_from(1)
    starts = itertools.product(range(n_kinds), range(width))
    return first_is_background + sum(
        rate / n_kinds / mean_block * motif_from(kind, place, 0) for kind, place in starts
    )


@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_forward_algorithm_equals_enumeration(length: int) -> None:
    law, ids = tiny(), all_windows(length)
    expected = [enumerated(law, row) for row in ids[:: max(1, len(ids) // 60)]]
    found = np.exp(law.log_likelihood(ids[:: max(1, len(ids) // 60)]))
    assert np.allclose(found, expected, rtol=1e-12)  # float64 rounding of a few dozen products


@pytest.mark.parametrize("options", [{}, {"motif_fraction": 1.0}, {"motif_length": 1}])
def test_probabilities_of_all_windows_sum_to_one(options: dict[str, float]) -> None:
    assert np.exp(tiny(**options).log_likelihood(all_windows(6))).sum() == pytest.approx(1, 1e-12)


def test_windows_that_cannot_occur_have_no_probability() -> None:
    law = tiny(motif_fraction=1.0, mutation_rate=0.0)
    log_p = law.log_likelihood(all_windows(6))
    assert np.isneginf(log_p).any()
    assert np.exp(log_p).sum() == pytest.approx(1, 1e-12)


def test_what_is_no_base_has_no_likelihood() -> None:
    with pytest.raises(ValueError, match=r"ids from 7 to 11: the law gives A, C, G and T"):
        tiny().log_likelihood(np.array([[7, 11]], dtype=np.uint8))


def test_without_motifs_the_entropy_is_that_of_independent_bases() -> None:
    law = tiny(motif_fraction=0.0)
    p = np.array([0.35, 0.15, 0.15, 0.35])
    closed_form = -(p * np.log(p)).sum()
    estimate = law.entropy(400, 50, np.random.default_rng(0))
    # 5 standard errors: false alarms below 1e-6.
    assert abs(estimate.nats_per_base - closed_form) < 5 * estimate.standard_error
    assert np.exp(law.log_likelihood(all_windows(1))) == pytest.approx(p)


def test_the_estimated_entropy_is_the_enumerated_one() -> None:
    law = tiny()
    log_p = law.log_likelihood(all_windows(6))
    exact = -(np.exp(log_p) * log_p).sum() / 6
    estimate = law.entropy(4000, 6, np.random.default_rng(1))
    assert abs(estimate.nats_per_base - exact) < 5 * estimate.standard_error


def test_a_strand_is_as_likely_as_its_reverse_complement() -> None:
    law = SyntheticGenome()
    ids = law.draw(20, 200, np.random.default_rng(0))
    reverse = COMPLEMENT[ids[:, ::-1]].astype(np.uint8)
    # Exact but for rounding: 200 steps of float64.
    assert np.allclose(law.log_likelihood(ids), law.log_likelihood(reverse), rtol=1e-11)


@pytest.mark.parametrize("options", [{}, {"motif_fraction": 1.0}, {"motif_length": 1}])
@pytest.mark.parametrize("place", [0, 7])
def test_words_of_draws_follow_the_law_wherever_they_stand(
    options: dict[str, float], place: int
) -> None:
    law = tiny(**options)
    ids = law.draw(40_000, 11, np.random.default_rng(2))[:, place : place + 4]
    counts = np.bincount((ids.astype(int) - 7) @ [64, 16, 4, 1], minlength=256)
    expected = 40_000 * np.exp(law.log_likelihood(all_windows(4)))
    keep = expected > 5
    assert keep.all() or expected[~keep].sum() < 1000
    statistic = ((counts - expected)[keep] ** 2 / expected[keep]).sum()
    # Chi-squared; false-alarm rate 1e-4 in each of 6 cases.
    assert stats.chi2.sf(statistic, keep.sum() - 1) > 1e-4


def test_draws_of_one_long_window_have_the_entropy_of_the_law() -> None:
    law = SyntheticGenome()
    rng = np.random.default_rng(3)
    long = law.draw(1, 300_000, rng).reshape(-1, 1000)
    nats = -law.log_likelihood(long) / 1000
    estimate = law.entropy(300, 1000, rng)
    error = np.hypot(estimate.standard_error, nats.std() / np.sqrt(len(nats)))
    assert abs(nats.mean() - estimate.nats_per_base) < 5 * error


def test_the_same_seed_gives_the_same_motifs_and_draws() -> None:
    a, b = SyntheticGenome(seed=1), SyntheticGenome(seed=1)
    assert np.array_equal(a.motifs, b.motifs)
    draws = [law.draw(3, 90, np.random.default_rng(4)) for law in (a, b)]
    assert np.array_equal(draws[0], draws[1])
    assert not np.array_equal(a.motifs, SyntheticGenome(seed=2).motifs)


def test_written_files_hold_the_draws(tmp_path: Path) -> None:
    law = tiny()
    records: dict[Split, int] = {"train": 2, "valid": 1, "test": 1}
    fasta, bed = law.write(tmp_path / "new", records, 130, np.random.default_rng(0))
    genome = Genome(fasta, cache_dir=tmp_path)
    assert list(genome.lengths.values()) == [130] * 4
    rows = read_bed(bed, genome.lengths)
    assert [row.split for row in rows] == ["train", "train", "valid", "test"]
    rng = np.random.default_rng(0)
    for row in rows:
        expected = law.draw(1, 130, rng)[0]
        assert np.array_equal(genome.fetch(row.chrom, row.start, row.end), expected)
    with pytest.raises(UserError, match=r"genome\.fa exists and is not overwritten"):
        law.write(tmp_path / "new", records, 130, rng)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_motifs": 0}, "n_motifs=0, motif_length=3: give 1 or more"),
        ({"motif_fraction": 1.5}, r"motif_fraction=1\.5 is a probability"),
        ({"mutation_rate": -0.1}, r"mutation_rate=-0\.1 is a probability"),
        ({"gc": 2.0}, r"gc=2\.0 is a probability"),
    ],
)
def test_bad_laws_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny(**options)
