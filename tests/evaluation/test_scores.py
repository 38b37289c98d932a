"""Accuracies of runs: intervals and tests against closed forms and scipy."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from genodiff.errors import UserError
from genodiff.evaluation.metrics import wilson_95
from genodiff.evaluation.scores import (
    Figure,
    Run,
    compare_scores,
    holm,
    mcnemar,
    paired_t,
    score_results,
    spread,
)


def a_run(correct: str, fold: int = 0, seed: int = 1, n_train: int = 40, first: int = 0) -> Run:
    """A run whose items, from number `first`, were told right where there is a 1."""
    right = np.array([letter == "1" for letter in correct])
    items = np.arange(first, first + len(right))
    return Run(fold, seed, n_train, items, right, np.ones_like(right))


def test_the_interval_over_seeds_is_students() -> None:
    values = [0.9, 0.93, 0.91, 0.95, 0.92]
    found = spread(values)
    low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
    assert found.mean == pytest.approx(0.922) and found.max_minus_min == pytest.approx(0.05)
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    # the quantile's expansion is within 1 %
    assert found.confidence_95 == pytest.approx((low, high), abs=0.01 * (high - low))
    assert spread([0.5]) == (0.5, None, 0.0, None)
    with pytest.raises(UserError, match="no run"):
        spread([])


def test_folds_that_share_their_training_widen_the_interval() -> None:
    # Nadeau & Bengio: 1/J + n_test/n_train, for five folds 0.2 + 0.25 in place of 0.2
    values = [0.9, 0.93, 0.91, 0.95, 0.92]
    plain, corrected = spread(values), spread(values, test_to_train=0.25)
    assert plain.confidence_95 is not None and corrected.confidence_95 is not None
    ratio = np.ptp(corrected.confidence_95) / np.ptp(plain.confidence_95)
    assert ratio == pytest.approx(math.sqrt(0.45 / 0.2))


@pytest.mark.parametrize(("correct", "n"), [(0, 7), (7, 7), (3, 10), (180, 242)])
def test_the_interval_of_one_run_is_wilsons(correct: int, n: int) -> None:
    expected = stats.binomtest(correct, n).proportion_ci(method="wilson")
    assert wilson_95(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize(("a", "b"), [(1, 0), (3, 9), (5, 5), (200, 150), (2000, 2300)])
def test_mcnemar_is_the_binomial_test(a: int, b: int) -> None:
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(a, a + b).pvalue, rel=1e-9)
    assert mcnemar(0, 0) == 1


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 10, 11])
def test_the_paired_test_is_students(n: int) -> None:
    differences = np.random.default_rng(n).normal(0.5, 1, n).tolist()
    assert paired_t(differences) == pytest.approx(stats.ttest_1samp(differences, 0)[1])
    corrected = np.mean(differences) / np.std(differences, ddof=1) / math.sqrt(1 / n + 0.3)
    p = 2 * stats.t.sf(abs(corrected), n - 1)
    assert paired_t(differences, test_to_train=0.3) == pytest.approx(p)


def test_differences_without_spread_are_certain() -> None:
    assert paired_t([0.1, 0.1, 0.1]) == 0 and paired_t([0.0, 0.0]) == 1


def test_holm_keeps_the_order_given() -> None:
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (raised to 0.06), 0.5 * 1
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1] and holm([]) == []


def test_results_have_what_a_reader_needs_with_and_without_copies() -> None:
    runs = [a_run("110110", 0, 1), a_run("111110", 1, 2)]
    unseen = np.array([True, False, True, True, False, True])
    baselines = {"majority": np.array([True, False] * 3), "kmer_logistic": None}
    found = score_results(
        *("task", "model", "paper", runs),
        unseen=unseen,
        baselines=baselines,
        leakage={"test_unseen": 4},
    )
    assert json.loads(json.dumps(found)) == found
    assert [(f["fold"], f["seed"], f["n_test"]) for f in found["folds"]] == [(0, 1, 6), (1, 2, 6)]
    assert [f["accuracy"] for f in found["folds"]] == pytest.approx([4 / 6, 5 / 6])
    assert found["mean"] == pytest.approx(0.75)
    assert found["max_minus_min"] == pytest.approx(1 / 6)
    assert found["baselines"]["majority"]["accuracy"] == 0.5
    assert found["baselines"]["kmer_logistic"] is None
    part = found["deduplicated"]
    assert [f["accuracy"] for f in part["folds"]] == [0.5, 0.75] and part["mean"] == 0.625
    assert part["baselines"]["majority"] == {
        "accuracy": 0.5,
        "n_test": 4,
        "confidence_95": list(wilson_95(2, 4)),
    }
    copies = score_results(
        "task", "model", "paper", runs, unseen=np.zeros(6, bool), baselines={}, leakage={}
    )
    assert copies["deduplicated"] is None


def test_folds_of_one_set_are_summed_up_with_the_correction() -> None:
    runs = [a_run("1110", 0, 1, 8, 0), a_run("1000", 1, 1, 8, 4), a_run("1100", 2, 1, 8, 8)]
    found = score_results(
        "t", "m", "kfold", runs, unseen=np.ones(12, bool), baselines={}, leakage={}
    )
    expected = spread([0.75, 0.25, 0.5], test_to_train=0.5).confidence_95
    assert found["confidence_95"] == pytest.approx(expected)
    compared = compare_scores(runs, [run._replace(told=~run.told) for run in runs], "kfold")
    # 6 of 12 items are right in either, never the same ones
    assert (compared.only_a, compared.only_b, compared.p_items) == (6, 6, 1)
    assert compared.difference == pytest.approx(0) and compared.p_runs == pytest.approx(1)
    assert compared.test == "corrected resampled t over folds"


def test_models_are_compared_over_seeds_and_over_the_items_of_the_first() -> None:
    a = [a_run("11110", 1, 2), a_run("11111", 0, 1), a_run("11101", 2, 3)]
    b = [a_run("10101", 0, 1), a_run("11000", 1, 2), a_run("11100", 2, 3)]
    found = compare_scores(a, b, "paper")
    differences = [0.4, 0.4, 0.2]
    assert found.difference == pytest.approx(1 / 3)
    assert found.p_runs == pytest.approx(stats.ttest_1samp(differences, 0)[1])
    assert (found.only_a, found.only_b, found.p_items) == (2, 0, 0.5)
    assert compare_scores(a[:1], b[1:2], "paper").p_runs is None


def test_runs_that_do_not_match_are_refused() -> None:
    with pytest.raises(UserError, match=r"\[\(0, 1\)\] and \[\(0, 2\)\] cannot be paired"):
        compare_scores([a_run("11")], [a_run("11", seed=2)], "paper")
    with pytest.raises(UserError, match="fold 0, seed 1: the models were tested on different"):
        compare_scores([a_run("11")], [a_run("11", first=1)], "paper")


def test_figures_of_a_task_are_summed_up_alike() -> None:
    labels = np.array([0, 1, 1, 0, 1, 0])
    told = (np.array([0, 1, 0, 0, 1, 1]), np.array([0, 1, 1, 0, 0, 0]))
    runs = [Run(i, i + 1, 40, np.arange(6), row, labels) for i, row in enumerate(told)]
    first = np.array([True, True, True, False, False, False])
    found = score_results(
        *("mnli", "model", "paper", runs),
        unseen=np.array([True] * 5 + [False]),
        baselines={"majority": np.zeros(6, np.int64), "none": None},
        leakage={},
        figures=[Figure("matched", "accuracy", first), Figure("f1", "f1")],
    )
    assert json.loads(json.dumps(found)) == found
    assert (found["figure"], found["metric"], list(found["also"])) == (
        *("matched", "accuracy"),
        ["f1"],
    )
    assert [row["accuracy"] for row in found["folds"]] == pytest.approx([2 / 3, 1])
    assert found["baselines"]["majority"]["accuracy"] == pytest.approx(1 / 3)
    f1 = found["also"]["f1"]
    assert [row["f1"] for row in f1["folds"]] == pytest.approx([2 / 3, 4 / 5])
    assert f1["mean"] == pytest.approx(11 / 15) and f1["folds"][0]["n_test"] == 6
    assert f1["deduplicated"]["folds"][0]["f1"] == pytest.approx(4 / 5)
    assert f1["baselines"]["majority"]["f1"] == 0 and f1["baselines"]["none"] is None
    low, high = f1["folds"][0]["confidence_95"]
    assert 0 <= low < 2 / 3 < high <= 1


def test_numbers_are_compared_by_which_is_nearer() -> None:
    labels = np.array([1.0, 2.0, 3.0, 4.0])
    one = Run(0, 1, 40, np.arange(4), np.array([1.1, 2.1, 3.0, 5.0]), labels)
    other = Run(0, 1, 40, np.arange(4), np.array([1.5, 2.5, 3.0, 4.5]), labels)
    found = compare_scores([one], [other], "paper", Figure("pearson", "pearson"))
    assert (found.only_a, found.only_b, found.p_items) == (2, 1, 1)
    expected = np.corrcoef(one.told, labels)[0, 1] - np.corrcoef(other.told, labels)[0, 1]
    assert found.difference == pytest.approx(expected)
