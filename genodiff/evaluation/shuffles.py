"""Control sequences: real ones whose order is destroyed but for that of neighbouring letters, and
draws of Markov chains.

A sequence is a path over the graph of its letters, an edge for each pair of neighbours. Sequences
of the same pairs are the Eulerian paths of that graph from its first letter to its last, and one
of them is drawn with equal probability (Altschul & Erickson 1985, "Significance of nucleotide
sequence alignments"): the last edges out of the letters form a tree towards the last letter, all
of them equally likely, and the other edges come in any order.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import numpy as np
from jaxtyping import Int, Int8
from numpy import ndarray

from genodiff.errors import UserError
from genodiff.evaluation.markov import MarkovModel, fit_markov
from genodiff.evaluation.words import letter_codes

_LETTERS = np.frombuffer(b"ACGT", np.uint8)
_DRAWN_TOGETHER = 4096


def shuffled(sequences: Iterable[str], *, seed: int = 0) -> Iterator[str]:
    """Each sequence with its letters in another order, and the same count of every pair of
    neighbours, drawn from all such orders with equal probability.

    First and last letters stay. What is not A, C, G or T stays where it is, and each stretch
    between is shuffled on its own. Lower case is read as upper case. A sequence's order depends on
    `seed` and its number alone.
    """
    for number, sequence in enumerate(sequences):
        yield dinucleotide_shuffle(sequence, np.random.default_rng((seed, number)))


def dinucleotide_shuffle(sequence: str, random: np.random.Generator) -> str:
    """One sequence in another order: see `shuffled`."""
    letters = np.frombuffer(sequence.upper().encode("ascii", "replace"), np.uint8).copy()
    codes = letter_codes(letters, b"ACGT")
    bounds = np.flatnonzero(np.diff(codes >= 0, prepend=False, append=False))
    for begin, end in bounds.reshape(-1, 2).tolist():
        letters[begin:end] = _LETTERS[_eulerian_path(codes[begin:end], random)]
    return letters.tobytes().decode("ascii")


def markov_control(
    reference: Iterable[str], n: int, length: int, *, order: int = 5, seed: int = 0
) -> Iterator[str]:
    """Draws of a Markov chain of the reference: `fit_markov` on its given strand, then
    `markov_sequences`.

    Raises:
        UserError: order out of range, or no letter in the reference.
    """
    windows = (
        np.frombuffer(text.upper().encode("ascii", "replace"), np.uint8) for text in reference
    )
    model = fit_markov(windows, data_ids=tuple(b"ACGT"), max_order=order)
    return markov_sequences(model, n, length, seed=seed)


def markov_sequences(model: MarkovModel, n: int, length: int, *, seed: int = 0) -> Iterator[str]:
    """n sequences of `length` letters, drawn from a model of A, C, G, T at its highest order.

    The first letters have the shorter contexts that there are.

    Raises:
        UserError: the model is not of four letters.
    """
    if len(model.data_ids) != 4:
        raise UserError(
            f"a Markov model of {len(model.data_ids)} letters draws no DNA; fit it with "
            "data_ids of A, C, G, T."
        )
    for first in range(0, n, _DRAWN_TOGETHER):
        random = np.random.default_rng((seed, first))
        drawn = _drawn(model, min(_DRAWN_TOGETHER, n - first), length, random)
        yield from (_LETTERS[row].tobytes().decode("ascii") for row in drawn)


def _eulerian_path(codes: Int8[ndarray, " l"], random: np.random.Generator) -> Int8[ndarray, " l"]:
    """Another path over the same edges, from the same first letter to the same last."""
    targets = [codes[1:][codes[:-1] == letter] for letter in range(4)]
    times = [np.bincount(after, minlength=4).tolist() for after in targets]
    last_edges = _tree(times, int(codes[-1]), random)
    order = []
    for letter, after in enumerate(targets):
        if letter in last_edges:
            to = last_edges[letter]
            rest = np.delete(after, int(np.argmax(after == to)))
            order.append(iter([*random.permutation(rest).tolist(), to]))
        else:
            order.append(iter(random.permutation(after).tolist()))
    path = [int(codes[0])]
    for _ in range(len(codes) - 1):
        path.append(next(order[path[-1]]))
    return np.array(path, np.int8)


def _tree(
    edges: Sequence[Sequence[int]], root: int, random: np.random.Generator
) -> dict[int, int]:
    """Where the last edge out of each letter leads, the root's aside: one of the trees towards the
    root, each with the probability of its number of choices of edges.

    There are at most 16 trees over four letters, so that all are looked at. Drawing edges until
    they are a tree, as published, may take as many draws as a sequence has letters.
    """
    letters = [letter for letter in range(4) if letter != root and any(edges[letter])]
    trees, weights = [], []
    for parents in product(range(4), repeat=len(letters)):
        tree = dict(zip(letters, parents, strict=True))
        weight = math.prod(edges[letter][parent] for letter, parent in tree.items())
        if weight and all(_reaches(tree, letter, root) for letter in letters):
            trees.append(tree)
            weights.append(weight)
    return trees[random.choice(len(trees), p=np.array(weights, float) / float(sum(weights)))]


def _reaches(tree: dict[int, int], letter: int, root: int) -> bool:
    for _ in tree:
        letter = tree.get(letter, letter)
    return letter == root


def _drawn(
    model: MarkovModel, n: int, length: int, random: np.random.Generator
) -> Int[ndarray, "n l"]:
    tables = [counts.reshape(-1, 4) for counts in model.counts]
    letters = np.zeros((n, length), np.int8)
    context = np.zeros(n, np.int64)
    for place in range(length):
        p = np.full((n, 4), 0.25)
        for k, table in enumerate(tables[: place + 1]):
            count = table[context % 4**k]
            strength = model.concentrations[k]
            p = (count + strength * p) / (count.sum(1, keepdims=True) + strength)
        drawn = (random.random((n, 1)) > p.cumsum(1)[:, :3]).sum(1)
        letters[:, place] = drawn
        context = (4 * context + drawn) % 4**model.max_order
    return letters
