"""Samplers that reveal masks: their exact laws, by recursion over the masks that are left.

In the enumerable world even an order of the network's own has a law that can be computed. So the
samplers are tested against that, and how far it is from the data is a figure, not a hope.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from genodiff.diffusion import (
    Absorbing,
    Counting,
    Denoiser,
    EntropyBounded,
    FirstHitting,
    LogLinear,
    NetworkDenoiser,
    Parallel,
    Sampler,
    Subs,
    Threshold,
    Uniform,
)
from genodiff.diffusion.revealing import Grid, Order
from genodiff.errors import UserError
from tests.diffusion.test_sampling import Listener, assert_follows
from tests.toy import DATA_IDS, LENGTH, MASK, UNKNOWN, VOCAB_SIZE, ExactDenoiser, World

SAMPLES = 5000

Choice = Callable[[Tensor, Tensor], Iterator[tuple[float, Tensor]]]
"""(state (l,), p (l, k)) -> (probability, which masks are revealed next), all there are."""


def law_of(denoiser: Denoiser, choose: Choice) -> Tensor:
    """(27,): the law of a sampler that reveals the masks of a choice together, from all masks."""
    law = {(MASK,) * LENGTH: 1.0}
    for _ in range(LENGTH):
        following: dict[tuple[int, ...], float] = {}
        for state, weight in law.items():
            x = torch.tensor(state)
            p = denoiser.log_x0(x[None], torch.ones(1, 1))[0].exp()
            for probability, where in choose(x, p) if MASK in state else [(1.0, x < 0)]:
                letters = [
                    range(3) if here else [int(v)] for here, v in zip(where, x, strict=True)
                ]
                for drawn in itertools.product(*letters):
                    each = [float(p[i, v]) for i, v in enumerate(drawn) if where[i]]
                    chance = weight * probability * float(torch.tensor([1.0, *each]).prod())
                    following[drawn] = following.get(drawn, 0.0) + chance
        law = following
    return torch.tensor([law.get(s, 0.0) for s in itertools.product(range(3), repeat=LENGTH)])


def at_random(*numbers: int) -> Choice:
    """`numbers` of masks at a time, any of them; the last of `numbers` is the rest."""

    def choose(x: Tensor, p: Tensor) -> Iterator[tuple[float, Tensor]]:
        masks = (x == MASK).nonzero()[:, 0].tolist()
        shown = LENGTH - len(masks)
        number = next(
            n
            for n, total in zip(numbers, itertools.accumulate(numbers), strict=True)
            if total > shown
        )
        groups = list(itertools.combinations(masks, min(number, len(masks))))
        for group in groups:
            yield 1 / len(groups), torch.isin(torch.arange(LENGTH), torch.tensor(group))

    return choose


def by_score(score: Callable[[Tensor], Tensor], number: Callable[[Tensor], int]) -> Choice:
    """The `number` of surest masks, of p (m, k) sorted so."""

    def choose(x: Tensor, p: Tensor) -> Iterator[tuple[float, Tensor]]:
        masks = (x == MASK).nonzero()[:, 0]
        order = score(p[masks]).argsort(descending=True)
        group = masks[order[: max(number(p[masks][order]), 1)]]
        yield 1.0, torch.isin(torch.arange(LENGTH), group)

    return choose


def confidence(p: Tensor) -> Tensor:
    return p.amax(-1)


def margin(p: Tensor) -> Tensor:
    best = p.topk(2).values
    return best[:, 0] - best[:, 1]


def minus_entropy(p: Tensor) -> Tensor:
    return torch.xlogy(p, p).sum(-1)


def bounded(bound: float) -> Callable[[Tensor], int]:
    def number(p: Tensor) -> int:
        entropy = -minus_entropy(p)
        return sum(
            float(entropy[:k].sum() - entropy[:k].max()) <= bound for k in (1, 2, 3)[: len(p)]
        )

    return number


def above(threshold: float) -> Callable[[Tensor], int]:
    return lambda p: int((p.amax(-1) >= threshold).sum())


def one(p: Tensor) -> int:
    return 1


def one_then_two(p: Tensor) -> int:
    return 1 if len(p) == LENGTH else 2


# Sampler, its law, and how far that is from the data in total variation (this world, exact
# denoiser). Revealed one at a time a token is drawn given all that are seen, in whatever order:
# that is exact. What costs fidelity is to draw several apart, and sure ones cost less.
LAWS: list[tuple[Sampler, Choice, float]] = [
    (FirstHitting(), at_random(1, 1, 1), 0.0),
    (Parallel(3), at_random(1, 1, 1), 0.0),
    (Parallel(50, "cosine"), at_random(1, 1, 1), 0.0),
    (Parallel(2), at_random(1, 2), 0.1402),
    (Parallel(1), at_random(3), 0.2789),
    (Parallel(3, order="confidence"), by_score(confidence, one), 0.0),
    (Parallel(2, order="confidence"), by_score(confidence, one_then_two), 0.1988),
    (Parallel(2, order="margin"), by_score(margin, one_then_two), 0.1988),
    (Parallel(2, order="entropy"), by_score(minus_entropy, one_then_two), 0.1988),
    (Threshold(1.0), by_score(confidence, one), 0.0),
    (Threshold(0.45), by_score(confidence, above(0.45)), 0.1207),
    (EntropyBounded(0.0), by_score(minus_entropy, one), 0.0),
    (EntropyBounded(1.0), by_score(minus_entropy, bounded(1.0)), 0.1161),
    (EntropyBounded(1.0, "margin"), by_score(margin, bounded(1.0)), 0.1207),
]


@pytest.mark.parametrize(("sampler", "choose", "distance"), LAWS, ids=[repr(s) for s, *_ in LAWS])
def test_the_law_is_the_one_computed_and_so_far_from_the_data(
    sampler: Sampler, choose: Choice, distance: float, world: World
) -> None:
    denoiser = world.denoiser(LogLinear())
    law = law_of(denoiser, choose)
    assert float(law.sum()) == pytest.approx(1)
    apart = float((law - world.probabilities).abs().sum() / 2)
    assert apart == pytest.approx(distance, abs=1e-4)
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = sampler(denoiser, prior, generator=torch.Generator().manual_seed(0))
    assert_follows(world.frequencies(samples), law)


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("order", ["random", "confidence"])
@pytest.mark.parametrize("grid", ["uniform", "cosine"])
def test_each_step_reveals_what_the_grid_says(
    grid: Grid, order: Order, steps: int, world: World
) -> None:
    left = [
        round(LENGTH * (1 - j / steps if grid == "uniform" else math.cos(math.pi / 2 * j / steps)))
        for j in range(steps + 1)
    ]
    network = Listener()
    denoiser = told_time(network)
    prior = denoiser.process.prior((20, LENGTH))
    generator = torch.Generator().manual_seed(0)
    Parallel(steps, grid, order)(denoiser, prior, generator=generator)
    visited = [j for j in range(steps) if left[j] > left[j + 1]]
    shown = [t[:, 0] for t in network.times]
    assert [len(t) for t in shown] == [20] * len(visited)
    told = [float(t[0]) for t in shown]
    shares = [
        left[j] / LENGTH
        if order != "random"
        else (1 - j / steps if grid == "uniform" else math.cos(math.pi / 2 * j / steps))
        for j in visited
    ]
    assert told == pytest.approx(shares, abs=1e-6)


def told_time(network: Listener) -> NetworkDenoiser:
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
    return NetworkDenoiser(network, process, Subs(VOCAB_SIZE, MASK, DATA_IDS), True, told="time")


def test_equally_sure_masks_are_revealed_in_random_order() -> None:
    network = Listener()  # it gives every token the same probability
    denoiser = told_time(network)
    prior = denoiser.process.prior((900, LENGTH))
    sampler = Parallel(2, order="margin")  # one, then two
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    sampler(denoiser, prior, generator=torch.Generator().manual_seed(0))
    first = (seen[1] != MASK).sum(0)
    assert first.sum() == 900
    assert ((first - 300).abs() < 5 * (900 * 2 / 9) ** 0.5).all()


EVERY: list[Sampler] = [
    Parallel(2),
    Parallel(2, order="entropy"),
    Threshold(0.5),
    EntropyBounded(1.0),
]
every_sampler = pytest.mark.parametrize("sampler", EVERY, ids=lambda s: type(s).__name__)


@every_sampler
def test_given_and_frozen_tokens_stay_and_all_else_is_restored(
    sampler: Sampler, world: World
) -> None:
    x = torch.tensor([[MASK, UNKNOWN, 2], [0, 1, 2], [MASK, MASK, MASK], [MASK, 0, MASK]])
    frozen = torch.zeros_like(x, dtype=torch.bool)
    frozen[3, 2] = True
    given = x.clone()
    generator = torch.Generator().manual_seed(0)
    samples = sampler.restore(world.denoiser(LogLinear()), x, frozen, generator)
    assert torch.equal(x, given)
    kept = (x != MASK) | frozen
    assert torch.equal(samples[kept], x[kept])
    assert (samples[~kept] < MASK).all()


@every_sampler
def test_a_row_costs_no_more_evaluations_than_it_has_masks(sampler: Sampler, world: World) -> None:
    counting = Counting(world.denoiser(LogLinear()))
    x = torch.tensor([[MASK, 1, 2], [0, 1, 2], [MASK, MASK, 0]])
    sampler(counting, x, generator=torch.Generator().manual_seed(0))
    assert counting.row_evaluations <= 3
    assert counting.calls <= 2


@every_sampler
def test_a_batch_without_rows_comes_back(sampler: Sampler, world: World) -> None:
    empty = torch.zeros(0, LENGTH, dtype=torch.int64)
    assert sampler(world.denoiser(LogLinear()), empty).shape == (0, LENGTH)


def test_bad_choices_are_refused(world: World) -> None:
    with pytest.raises(UserError, match="steps=0: sampling takes at least one step; use"):
        Parallel(0)
    for sampler, name, value, message in (
        (Parallel(4), "grid", "log", "grid='log' is not one of 'uniform', 'cosine'"),
        (Parallel(4), "order", "best", "order='best' is not one of 'random', 'confidence'"),
        (EntropyBounded(), "order", "random", "order='random' is not one of 'confidence'"),
    ):
        object.__setattr__(sampler, name, value)  # past the type check of the test run
        with pytest.raises(UserError, match=message):
            cast(Any, sampler).__post_init__()
    with pytest.raises(UserError, match=r"threshold=1\.5 is a probability, in \(0, 1\]; use"):
        Threshold(1.5)
    with pytest.raises(UserError, match=r"bound=-1\.0 is in nats, 0 or more; use"):
        EntropyBounded(-1.0)
    uniform = Uniform(LogLinear(), VOCAB_SIZE, DATA_IDS)
    exact = ExactDenoiser(world, uniform)
    for sampler in EVERY:
        with pytest.raises(
            UserError, match="counts masks, and needs an Absorbing process, not Uni"
        ):
            sampler(exact, uniform.prior((2, LENGTH)))
