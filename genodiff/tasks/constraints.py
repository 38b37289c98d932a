"""What DNA must be like, from the command line's words to automata: pattern=, forbid=, require=,
gc=.

In `sample` all bases count, those of a prompt too. In `infill` some are given: motifs and counts
are of the bases that are drawn, though a motif may reach from one of those into given ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from genodiff.data import BASES, DnaTokenizer, Motif, allowed_tokens, parse_motif
from genodiff.diffusion import Automaton, avoiding, containing, counting
from genodiff.errors import UserError

Constraints = dict[str, tuple[Automaton, Bool[Tensor, "l k"] | None]]
"""By the words of the command line."""

Patterns = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Wishes:
    """The keys; `genodiff sample --help` explains them."""

    pattern: str | None
    forbid: Sequence[str]
    require: Sequence[str]
    gc: Sequence[float] | None
    both_strands: bool

    def __bool__(self) -> bool:
        return any([self.pattern is not None, self.forbid, self.require, self.gc is not None])

    def constraints(
        self,
        tokenizer: DnaTokenizer,
        vocab_size: int,
        x: Int[Tensor, " l"],
        span: slice,
        given: Bool[Tensor, " l"] | None,
    ) -> Constraints:
        """As `Constrained` takes them, with `given`: over 2 vocab_size tokens if it is not None.

        `span` is what is designed of x: positions count from its start, and `pattern` and the
        share of G and C are of all of it, also of what is given in it.
        """
        length = len(x[span])
        size = vocab_size if given is None else 2 * vocab_size

        def placed(motif: Motif) -> Bool[Tensor, "l k"]:
            table = torch.ones(len(x), vocab_size, dtype=torch.bool)
            allowed = allowed_tokens([motif], length, tokenizer)
            table[span, : tokenizer.vocab_size] = torch.from_numpy(allowed)
            return table

        def anywhere(motif: Motif) -> Patterns:
            strands = motif.strands() if self.both_strands else (motif,)
            patterns = tuple(strand.tokens(tokenizer) for strand in strands)
            return patterns if given is None else _touched(patterns, vocab_size)

        anything = _counting((), 0, None, size)
        constraints: Constraints = {}
        if self.pattern is not None:
            table = placed(self._whole(length))
            if given is not None:  # N says nothing of a base that is given, which may be unknown
                free = [letter in "Nn" for letter in self.pattern]
                table[span][given[span] & torch.tensor(free)] = True
            constraints["pattern"] = anything, table
        for text in self.forbid:
            motif = parse_motif(text)
            if motif.position is not None:
                raise UserError(
                    f"forbid={text} has a position, and a motif is forbidden everywhere; leave "
                    f"the @{motif.position} out."
                )
            constraints[f"forbid={text}"] = _avoiding(anywhere(motif), size), None
        for text in self.require:
            motif = parse_motif(text)
            if motif.position is not None:
                constraints[f"require={text}"] = anything, placed(motif)
                continue
            if len(motif.letters) > len(x):
                raise UserError(
                    f"require={text} has {len(motif.letters)} letters, and sequences have "
                    f"{len(x)} bases; make them longer."
                )
            constraints[f"require={text}"] = _containing(anywhere(motif), size), None
        if self.gc is not None:
            gc = tokenizer.encode(BASES["S"])
            kept = 0
            if given is not None:
                kept = int(np.isin(x[span][given[span]].numpy(), gc).sum())
            low, high = self._bounds(length, kept)
            constraints[f"gc={list(self.gc)}"] = (
                _counting(tuple(gc.tolist()), low, high, size),
                None,
            )
        return constraints

    def _whole(self, length: int) -> Motif:
        """The pattern, as a motif that is as long as what is designed."""
        assert self.pattern is not None
        if len(self.pattern) != length:
            raise UserError(
                f"pattern= has {len(self.pattern)} letters for {length} bases; give a letter for "
                "each, N for any."
            )
        return Motif(self.pattern, 0)

    def _bounds(self, n: int, kept: int) -> tuple[int, int]:
        """The fewest and the most G or C among what is drawn of n bases, of which `kept` are."""
        gc = list(self.gc or ())
        if len(gc) != 2 or not 0 <= gc[0] <= gc[1] <= 1:
            raise UserError(
                f"gc={gc} has to be the smallest and the largest share of G and C; give e.g. "
                "gc=[0.4,0.6]."
            )
        low, high = math.ceil(gc[0] * n - 1e-9), math.floor(gc[1] * n + 1e-9)
        if low > high:
            raise UserError(f"gc={gc}: no number of {n} bases is in that range; widen it.")
        if kept > high:
            raise UserError(
                f"gc={gc}: of {n} bases {kept} are kept G or C, and at most {high} may be; widen "
                "it, or keep less."
            )
        return max(low - kept, 0), high - kept


def _touched(patterns: Patterns, vocab_size: int) -> Patterns:
    """The patterns where one token or more is drawn: token t is read as t if it is, else as
    vocab_size + t. One for each place that may be the first drawn, so that none covers another."""

    def given(tokens: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(vocab_size + token for token in tokens)

    return tuple(
        (*map(given, pattern[:i]), tokens, *((*t, *given(t)) for t in pattern[i + 1 :]))
        for pattern in patterns
        for i, tokens in enumerate(pattern)
    )


# Regions of a BED ask for the same ones again and again.
@lru_cache
def _avoiding(patterns: Patterns, size: int) -> Automaton:
    return avoiding(patterns, size)


@lru_cache
def _containing(patterns: Patterns, size: int) -> Automaton:
    return containing(patterns, size)


@lru_cache
def _counting(tokens: tuple[int, ...], low: int, high: int | None, size: int) -> Automaton:
    return counting(tokens, low, high, size)
