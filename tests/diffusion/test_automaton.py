"""Automata, against all strings of up to five letters."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genodiff.diffusion.automaton import (
    Automaton,
    Pattern,
    avoiding,
    containing,
    counting,
    product,
)
from genodiff.errors import UserError

K = 4
OTHER = 3  # a token that is in no set: an unknown letter
STRINGS = [np.array(list(itertools.product(range(K), repeat=n)), dtype=np.int64) for n in range(6)]

sets = st.sets(st.integers(0, OTHER - 1))
patterns = st.lists(st.lists(sets, min_size=1, max_size=4), max_size=3)
few = settings(max_examples=20, deadline=None)


def is_one_of(tokens: set[int], strings: np.ndarray) -> np.ndarray:
    return np.array([token in tokens for token in range(K)])[strings]


def any_occurs(patterns: list[list[set[int]]], strings: np.ndarray) -> np.ndarray:
    """Which strings hold one of the patterns, window by window."""
    found = np.zeros(len(strings), dtype=bool)
    for pattern in patterns:
        for at in range(strings.shape[1] - len(pattern) + 1):
            here = [is_one_of(tokens, strings[:, at + i]) for i, tokens in enumerate(pattern)]
            found |= np.all(here, axis=0)
    return found


def word(text: str) -> Pattern:
    return [{"abc".index(letter)} for letter in text]


@given(patterns)
@few
def test_avoiding_accepts_what_holds_no_pattern(patterns: list[list[set[int]]]) -> None:
    automaton = avoiding(patterns, K)
    for strings in STRINGS:
        assert (automaton.accepts(strings) == ~any_occurs(patterns, strings)).all()


@given(patterns.filter(bool))
@few
def test_containing_accepts_what_holds_a_pattern(patterns: list[list[set[int]]]) -> None:
    automaton = containing(patterns, K)
    for strings in STRINGS:
        assert (automaton.accepts(strings) == any_occurs(patterns, strings)).all()


@given(patterns.filter(bool), st.sampled_from([avoiding, containing]))
@few
def test_automata_of_patterns_have_no_state_too_many(patterns, build) -> None:
    automaton = build(patterns, K)
    starts = [Automaton(s, automaton.step, automaton.accept) for s in range(automaton.n_states)]
    # Patterns of four letters are told apart by what is accepted within four more.
    accepted = [
        np.concatenate([one.accepts(strings) for strings in STRINGS[:5]]) for one in starts
    ]
    assert len(np.unique(accepted, axis=0)) == automaton.n_states


@pytest.mark.parametrize("text", ["a", "ab", "aa", "abab", "aabaa", "abcabcabd"[:8]])
def test_a_word_of_n_letters_takes_n_plus_1_states(text: str) -> None:
    # Knuth, Morris & Pratt: how much of the word has just been read, or all of it.
    assert avoiding([word(text)], K).n_states == len(text) + 1
    assert containing([word(text)], K).n_states == len(text) + 1


@given(st.sets(st.integers(0, K - 1)), st.integers(0, 4), st.one_of(st.none(), st.integers(0, 4)))
def test_counting_accepts_a_range_of_counts(tokens: set[int], low: int, more: int | None) -> None:
    high = None if more is None else low + more
    automaton = counting(tokens, low, high, K)
    for strings in STRINGS:
        n = is_one_of(tokens, strings).sum(1)
        assert (automaton.accepts(strings) == ((n >= low) & (high is None or n <= high))).all()
    assert automaton.n_states == (low + 1 if high is None else high + 2)


@given(patterns, patterns.filter(bool), st.integers(0, 3), st.integers(0, 3))
@few
def test_a_product_accepts_what_all_accept(
    avoided: list[list[set[int]]], contained: list[list[set[int]]], low: int, more: int
) -> None:
    automata = [
        avoiding(avoided, K),
        containing(contained, K),
        counting({0, OTHER}, low, low + more, K),
    ]
    automaton = product(automata)
    for strings in STRINGS:
        expected = np.all([part.accepts(strings) for part in automata], axis=0)
        assert (automaton.accepts(strings) == expected).all()


def test_a_product_holds_only_the_tuples_that_occur() -> None:
    # To have counted n letters a is to have counted them: the diagonal of 10 x 10, not the square.
    twice = product([counting({0}, 0, 8, K), counting({0}, 0, 8, K)])
    assert twice.n_states == 10
    # Nothing is told apart any more once a part cannot accept.
    assert product([avoiding([word("a")], K), counting({0}, 0, 8, K)]).n_states == 2


def test_a_language_with_nothing_in_it_is_an_automaton_too() -> None:
    automaton = product([avoiding([word("ab")], K), containing([word("ab")], K)])
    assert not automaton.live()[automaton.start]
    assert not any(automaton.accepts(strings).any() for strings in STRINGS)
    assert automaton.minimised().n_states == 1


def test_live_states_are_those_with_a_way_to_acceptance() -> None:
    automaton = counting({0}, 2, 3, K)
    assert automaton.live().tolist() == [True, True, True, True, False]


def test_tokens_that_no_state_tells_apart_are_one_class() -> None:
    class_of, step = avoiding([word("ab")], 12).token_classes()
    assert step.shape[1] == 3
    assert len(set(class_of[2:])) == 1
    assert len({class_of[0], class_of[1], class_of[2]}) == 3


def test_minimised_merges_states_that_accept_the_same() -> None:
    # Parity of the letters a, counted modulo 6.
    step = np.repeat(np.arange(6)[:, None], K, axis=1)
    step[:, 0] = (np.arange(6) + 1) % 6
    even = Automaton(2, step, np.arange(6) % 2 == 0)
    assert even.minimised().n_states == 2
    for strings in STRINGS:
        assert (even.minimised().accepts(strings) == even.accepts(strings)).all()


def test_automata_that_explode_are_refused_with_their_size() -> None:
    gapped = [[{0}, *[{0, 1, 2}] * 12, {0}]]  # which of the last 13 letters were an a
    with pytest.raises(UserError, match=r"need more than 1000 states; use fewer or shorter mot"):
        avoiding(gapped, K, max_states=1000)
    counts = [counting({token}, 0, 9, K) for token in range(3)]
    with pytest.raises(UserError, match=r"need more than 1000 states; use fewer"):
        product(counts, max_states=1000)
    assert product(counts, max_states=1001).n_states == 10**3 + 1


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: avoiding([[{0}], []], K), "an empty pattern occurs in every sequence; give it"),
        (lambda: containing([[]], K), "an empty pattern occurs in every sequence; give it"),
        (lambda: containing([], K), "no pattern is given to be contained, so that no sequence"),
        (lambda: avoiding([[{4, -1}]], K), r"tokens \[-1, 4\] are not in the vocabulary of 4; us"),
        (lambda: counting({7}, 0, 1, K), r"tokens \[7\] are not in the vocabulary of 4; use 0 to"),
        (lambda: counting({0}, 3, 2, K), "a count from 3 to 2 is no range; use 0 <= low <= high"),
        (lambda: counting({0}, -1, 2, K), "a count from -1 to 2 is no range; use 0 <= low"),
    ],
)
def test_what_is_no_language_is_refused(build, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="step and start of an automaton of 1 states hold others"):
        Automaton(0, np.ones((1, K), dtype=np.int64), np.ones(1, dtype=bool))
    with pytest.raises(ValueError, match=r"automata over \[3, 4\] tokens; one or more of one"):
        product([avoiding([], 3), avoiding([], 4)])
