"""The sub-sample of a stream."""

from collections import Counter

from genodiff.evaluation.subsample import subsample


def test_all_is_kept_in_order_where_it_is_not_more_than_asked_for() -> None:
    assert subsample(iter("abc"), 3, seed=0) == (["a", "b", "c"], 3)
    assert subsample([], 3, seed=0) == ([], 0)


def test_every_choice_is_equally_likely_and_in_order() -> None:
    # 10 choices of 2 of 5, 3,000 times: chi-squared of 9 degrees of freedom is above 33.7 with a
    # probability of 0.01 %.
    found = Counter()
    for seed in range(3000):
        kept, given = subsample(range(5), 2, seed)
        assert given == 5 and kept[0] < kept[1]
        found[tuple(kept)] += 1
    assert len(found) == 10
    assert sum((count - 300) ** 2 / 300 for count in found.values()) < 33.7


def test_a_seed_gives_one_sub_sample() -> None:
    assert subsample(range(99), 9, seed=1) == subsample(range(99), 9, seed=1)
    assert subsample(range(99), 9, seed=1) != subsample(range(99), 9, seed=2)
