"""The Frechet distance against closed forms and scipy's root; its excess over what is chance."""

import numpy as np
import pytest
from scipy.linalg import sqrtm

from genodiff.errors import UserError
from genodiff.evaluation.frechet import frechet, frechet_distance, kmer_embedding


def covariance(random: np.random.Generator, d: int, rank: int) -> np.ndarray:
    factor = random.normal(size=(d, rank))
    return factor @ factor.T


def test_of_diagonal_gaussians_it_is_the_closed_form() -> None:
    a, b = np.array([1.0, 4.0, 0.0]), np.array([9.0, 4.0, 2.0])
    mean = np.array([1.0, -2.0, 0.5])
    expected = (mean**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = frechet_distance(mean, np.diag(a), np.zeros(3), np.diag(b))
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_of_any_covariances_it_is_that_of_scipys_root(scale: float) -> None:
    random = np.random.default_rng(0)
    a, b = (scale * covariance(random, 12, 20) for _ in range(2))
    mean = np.sqrt(scale) * random.normal(size=12)
    root = np.real(sqrtm(a @ b))
    expected = mean @ mean + np.trace(a + b - 2 * root)
    assert frechet_distance(mean, a, 0 * mean, b) == pytest.approx(expected, rel=1e-9)


def test_singular_covariances_have_a_real_distance() -> None:
    # Of ranks 3 and 5 in 12 dimensions; on the range of both, a Gaussian in 3 dimensions moved
    # by a rotation is at the distance that the rotation makes.
    random = np.random.default_rng(1)
    a = covariance(random, 12, 3)
    zero = np.zeros(12)
    assert frechet_distance(zero, a, zero, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(zero, a, zero, 0 * a) == pytest.approx(np.trace(a), rel=1e-12)
    rotation = np.linalg.qr(random.normal(size=(12, 12)))[0]
    b = covariance(random, 12, 5)
    turned = frechet_distance(zero, rotation @ a @ rotation.T, zero, rotation @ b @ rotation.T)
    assert turned == pytest.approx(frechet_distance(zero, a, zero, b), rel=1e-6)


@pytest.mark.parametrize(("n", "d"), [(120, 10), (24, 30)])
def test_of_one_law_the_excess_is_0_also_with_fewer_vectors_than_dimensions(
    n: int, d: int
) -> None:
    # Of 20 intervals at a rate of 95 % fewer than 16 cover for 0.3 % of choices of seeds.
    covered, excess, biased = 0, [], []
    for seed in range(20):
        random = np.random.default_rng(seed)
        found = frechet(random.normal(size=(n, d)), random.normal(size=(n, d)), seed=seed)
        low, high = found.confidence_95
        covered += low <= 0 <= high
        excess.append(found.excess)
        biased.append(found.distance)
    assert covered >= 16
    assert abs(np.mean(excess)) < 4 * np.std(excess) / np.sqrt(20)  # false alarm: 0.006 %
    assert np.mean(biased) > 10 * abs(np.mean(excess))


def test_the_excess_is_the_distance_of_the_laws() -> None:
    # Coordinates of standard deviation 1 in the reference, 1.5 and moved by 0.5 in the samples:
    # d^2 = 10 (0.25 + 0.25). At a rate of 95 %
    # fewer than 15 of 20 cover for 0.03 % of choices of seeds.
    covered, excess, errors = 0, [], []
    for seed in range(20):
        random = np.random.default_rng(100 + seed)
        samples, reference = random.normal(0.5, 1.5, (200, 10)), random.normal(size=(200, 10))
        found = frechet(samples, reference, seed=seed)
        covered += found.confidence_95[0] <= 5 <= found.confidence_95[1]
        excess.append(found.excess)
        errors.append(found.standard_error)
        assert found.distance > found.excess
    assert covered >= 15
    assert np.mean(excess) == pytest.approx(5, abs=0.4)
    assert np.mean(errors) == pytest.approx(np.std(excess), rel=0.4)


def test_copies_within_a_set_are_one_unit() -> None:
    # Ten independent vectors a set, each 20 times: the halves share none of them.
    random = np.random.default_rng(2)
    sets = [np.repeat(random.normal(size=(10, 3)), 20, axis=0) for _ in range(2)]
    sets = [vectors + 0.01 * random.normal(size=vectors.shape) for vectors in sets]
    units = np.repeat(np.arange(10), 20).tolist()
    alone, together = frechet(*sets), frechet(*sets, units=(units, units))
    assert alone.floor < 0.2 * together.floor
    assert together.confidence_95[0] <= 0 <= together.confidence_95[1]
    assert not alone.confidence_95[0] <= 0


def test_a_larger_set_is_left_out_in_part_and_a_seed_gives_one_result() -> None:
    random = np.random.default_rng(3)
    samples, reference = random.normal(size=(90, 3)), random.normal(size=(70, 3))
    found = frechet(samples, reference, limit=60, seed=1)
    assert (found.sequences, found.given, found.dimensions) == (60, (90, 70), 3)
    assert found == frechet(samples, reference, limit=60, seed=1)
    assert found != frechet(samples, reference, limit=60, seed=2)
    assert found.summary()["confidence_95"] == list(found.confidence_95)


def test_words_are_counted_on_both_strands() -> None:
    random = np.random.default_rng(4)
    sequences = ["".join(random.choice(list("ACGT"), 300)) for _ in range(3)]
    turned = [each[::-1].translate(str.maketrans("ACGT", "TGCA")) for each in sequences]
    found = kmer_embedding(sequences)
    assert found.shape == (3, 136)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)
    np.testing.assert_array_equal(found, kmer_embedding(turned))


def test_too_few_records_are_told_in_one_line() -> None:
    vectors = np.random.default_rng(5).normal(size=(9, 2))
    units = (range(9), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    with pytest.raises(UserError, match=r"9 sequences of 3 records of the reference .* 4 records"):
        frechet(vectors, vectors, units=units)
