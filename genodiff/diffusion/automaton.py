"""Regular languages over tokens, as deterministic automata: what a sequence may or must hold.

An automaton reads a sequence from left to right and accepts it or not. A pattern is a list of sets
of tokens: it occurs in a sequence where consecutive tokens are in its sets. Alternatives, such as
the two strands of a motif, are several patterns; a token that is in no set, such as an unknown
letter, is no part of any occurrence.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar, final

import numpy as np
from jaxtyping import Bool, Int, Int64

from genodiff.errors import UserError

Pattern = Sequence[Collection[int]]
"""The tokens that may stand at each position of an occurrence."""

MAX_STATES = 16_384
"""With so many, a draw of 16 rows of 1,024 tokens can take ten seconds, and marginals 2 GB."""

_State = TypeVar("_State")


@final
@dataclass(frozen=True, eq=False)
class Automaton:
    """State s becomes step[s, token]; a sequence is accepted where that ends, from `start`, in a
    state of `accept`."""

    start: int
    step: Int64[np.ndarray, "s k"]
    accept: Bool[np.ndarray, " s"]

    def __post_init__(self) -> None:
        states = np.append(self.step, self.start)
        if not ((states >= 0) & (states < self.n_states)).all():
            raise ValueError(
                f"step and start of an automaton of {self.n_states} states hold others; number "
                "them from 0 on."
            )

    @property
    def n_states(self) -> int:
        return len(self.accept)

    @property
    def vocab_size(self) -> int:
        return self.step.shape[1]

    def accepts(self, tokens: Int[np.ndarray, "b l"]) -> Bool[np.ndarray, " b"]:
        """Which sequences are in the language."""
        state = np.full(len(tokens), self.start)
        for token in tokens.T:
            state = self.step[state, token]
        return self.accept[state]

    def token_classes(self) -> tuple[Int[np.ndarray, " k"], Int64[np.ndarray, "s c"]]:
        """(class of each token, step of each class): tokens that no state tells apart are one
        class."""
        step, class_of = np.unique(self.step, axis=1, return_inverse=True)
        return class_of.reshape(-1), step

    def live(self) -> Bool[np.ndarray, " s"]:
        """From which states some sequence is accepted."""
        live, step = self.accept, self.token_classes()[1]
        while (grown := live | live[step].any(1)).sum() > live.sum():
            live = grown
        return live

    def minimised(self) -> "Automaton":
        """The least automaton of the same language, among the states that there are.

        Moore's algorithm: as many passes over the states as the longest word that is needed to
        tell two states apart.
        """
        class_of, step = self.token_classes()
        label, n_labels = self.accept.astype(np.int64), 0
        while True:
            seen = np.column_stack([label, label[step]])
            _, first, label = np.unique(seen, axis=0, return_index=True, return_inverse=True)
            label = label.reshape(-1)
            if len(first) == n_labels:
                break
            n_labels = len(first)
        step = label[step[first]][:, class_of]
        return Automaton(int(label[self.start]), step, self.accept[first])


def avoiding(
    patterns: Sequence[Pattern], vocab_size: int, *, max_states: int = MAX_STATES
) -> Automaton:
    """The sequences in which none of the patterns occurs. Of no patterns, all sequences."""
    words = _Occurrences(patterns, vocab_size)

    def successors(active: int) -> list[int | None]:
        moves = words.moves(active)
        return [None if move & words.last else move for move in moves]

    automaton = _explored(0, successors, lambda _: True, words.class_of, max_states)
    return automaton.minimised()


def containing(
    patterns: Sequence[Pattern], vocab_size: int, *, max_states: int = MAX_STATES
) -> Automaton:
    """The sequences in which at least one of the patterns occurs, anywhere."""
    if not patterns:
        raise UserError(
            "no pattern is given to be contained, so that no sequence would do; give one or more."
        )
    words = _Occurrences(patterns, vocab_size)

    def successors(active: int) -> list[int | None]:
        if active & words.last:
            return [words.last] * words.n_classes
        moves = words.moves(active)
        return [words.last if move & words.last else move for move in moves]

    automaton = _explored(
        0, successors, lambda active: bool(active & words.last), words.class_of, max_states
    )
    return automaton.minimised()


def counting(tokens: Collection[int], low: int, high: int | None, vocab_size: int) -> Automaton:
    """The sequences with `low` to `high` of these tokens, both included; None for no upper limit.

    About `high` states, so that a bound which no sequence reaches is better left out.
    """
    _check_tokens(tokens, vocab_size)
    if low < 0 or (high is not None and high < low):
        raise UserError(
            f"a count from {low} to {high} is no range; use 0 <= low <= high, or no high."
        )
    n_states = low + 1 if high is None else high + 2  # the last: enough, or too many
    state = np.arange(n_states)
    step = np.repeat(state[:, None], vocab_size, axis=1)
    step[:, list(tokens)] = np.minimum(state + 1, n_states - 1)[:, None]
    accept = (state >= low) & (high is None or state < n_states - 1)
    return Automaton(0, step, accept)


def product(automata: Sequence[Automaton], *, max_states: int = MAX_STATES) -> Automaton:
    """The sequences that all of the automata accept: states are the tuples of states that occur.

    Raises `UserError` where these are more than `max_states`.
    """
    return _product(tuple(automata), max_states)


@lru_cache(maxsize=32)  # it is asked for again to find a conflict, and for every region of a BED
def _product(automata: tuple[Automaton, ...], max_states: int) -> Automaton:
    if len(automata) == 1:
        return automata[0]
    sizes = {automaton.vocab_size for automaton in automata}
    if len(sizes) != 1:
        raise ValueError(
            f"automata over {sorted(sizes)} tokens; one or more of one size can meet."
        )
    steps, class_of = np.unique(
        np.concatenate([automaton.step for automaton in automata]), axis=1, return_inverse=True
    )
    ends = np.cumsum([automaton.n_states for automaton in automata])[:-1]
    # Lists, as the search goes through states one by one; None where nothing is accepted any more.
    tables = [
        [[to if live[to] else None for to in row] for row in part.tolist()]
        for part, live in zip(np.split(steps, ends), (a.live() for a in automata), strict=True)
    ]

    def successors(states: tuple[int, ...]) -> list[tuple[int, ...] | None]:
        moves = zip(*(table[s] for table, s in zip(tables, states, strict=True)), strict=True)
        return [None if None in move else move for move in moves]

    def accepts(states: tuple[int, ...]) -> bool:
        return all(a.accept[s] for a, s in zip(automata, states, strict=True))

    start = tuple(automaton.start for automaton in automata)
    return _explored(start, successors, accepts, class_of.reshape(-1), max_states)


class _Occurrences:
    """Which beginnings of the patterns the last tokens match: bit j of an integer is the first
    tokens of a pattern up to position j, the patterns laid end to end (Shift-And, Baeza-Yates &
    Gonnet 1992)."""

    def __init__(self, patterns: Sequence[Pattern], vocab_size: int) -> None:
        self.first = self.last = 0
        matches = [0] * vocab_size  # of each token, the positions that it fits
        bit = 1
        for pattern in patterns:
            if not pattern:
                raise UserError(
                    "an empty pattern occurs in every sequence; give it at least one position."
                )
            self.first |= bit
            for tokens in pattern:
                _check_tokens(tokens, vocab_size)
                for token in set(tokens):
                    matches[token] |= bit
                bit <<= 1
            self.last |= bit >> 1
        self._matches = sorted(set(matches))
        self.n_classes = len(self._matches)
        self.class_of = np.array([self._matches.index(match) for match in matches])

    def moves(self, active: int) -> list[int]:
        """What is matched after a token more, of each class."""
        return [(active << 1 | self.first) & match for match in self._matches]


def _explored(
    start: _State,
    successors: Callable[[_State], Sequence[_State | None]],
    accepts: Callable[[_State], bool],
    class_of: np.ndarray,
    max_states: int,
) -> Automaton:
    """The automaton of the states that can be reached; None is one from which nothing is
    accepted."""
    number: dict[_State | None, int] = {start: 0}
    states: list[_State | None] = [start]
    step: list[list[int]] = []
    for state in states:  # which grows
        moves = [None] * (int(class_of.max()) + 1) if state is None else successors(state)
        for move in moves:
            if move not in number:
                number[move] = len(states)
                states.append(move)
        if len(states) > max_states:
            raise UserError(
                f"the constraints need more than {max_states} states; use fewer or shorter motifs "
                "(N in the middle of one costs most) or shorter sequences where G and C are "
                "counted."
            )
        step.append([number[move] for move in moves])
    accept = np.array([state is not None and accepts(state) for state in states])
    return Automaton(0, np.array(step, dtype=np.int64)[:, class_of], accept)


def _check_tokens(tokens: Collection[int], vocab_size: int) -> None:
    outside = sorted(token for token in tokens if not 0 <= token < vocab_size)
    if outside:
        raise UserError(
            f"tokens {outside} are not in the vocabulary of {vocab_size}; use 0 to "
            f"{vocab_size - 1}."
        )
