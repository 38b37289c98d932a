"""Guided samplers against the guided law, which the enumerable world knows."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from genodiff.diffusion import (
    Absorbing,
    Ancestral,
    ClassifierFree,
    ClassifierFreeTransitions,
    ClassifierGuided,
    Conditional,
    Counting,
    Denoiser,
    LogLinear,
    NetworkDenoiser,
    Parallel,
    Stepwise,
    Subs,
    Uniform,
)
from genodiff.diffusion.denoiser import RowCache
from genodiff.errors import UserError
from tests.diffusion.test_revealing import at_random, law_of
from tests.diffusion.test_sampling import assert_follows, chain_law, grid
from tests.toy import (
    DATA_IDS,
    LENGTH,
    LETTERS,
    MASK,
    VOCAB_SIZE,
    ExactDenoiser,
    ExactNetwork,
    World,
    chain_log_p,
)

SAMPLES = 5000


class Label:
    """A property of the 27 sequences that no letter has alone, p(y | x) between 0.05 and 0.95; and
    p(y | x_t) of masked sequences, exactly."""

    def __init__(self, world: World) -> None:
        self.world = world
        first, _, last = world.sequences.unbind(-1)
        self.of_sequence = torch.where((first + last) % 3 == 0, 0.95, 0.05).double()
        joint = world.probabilities * self.of_sequence
        self.prior = float(joint.sum())
        self.posterior = joint / joint.sum()  # (27,): p(x | y)
        self.asked = 0

    def __call__(self, one_hot: Tensor) -> Tensor:
        self.asked += len(one_hot)
        seen = one_hot[..., :LETTERS].double()  # masks are 0
        weight = torch.ones(len(one_hot), len(self.of_sequence)).double()
        for i in range(LENGTH):
            here = seen[:, i] @ nn.functional.one_hot(self.world.sequences[:, i], 3).double().T
            weight = weight * torch.where(seen[:, i].sum(-1, keepdim=True) > 0, here, 1.0)
        weight = weight * self.world.probabilities
        return ((weight @ self.of_sequence) / weight.sum(-1)).log()


def test_exact_guidance_of_strength_1_is_conditioning(world: World) -> None:
    label = Label(world)
    guided = ClassifierGuided(world.denoiser(LogLinear()), label)
    # One token at a time this is exact, whatever the order.
    law = law_of(guided, at_random(1, 1, 1))
    torch.testing.assert_close(law, label.posterior.float(), atol=1e-6, rtol=1e-5)
    assert float((law - world.probabilities).abs().sum()) > 0.5
    prior = guided.process.prior((SAMPLES, LENGTH))
    samples = Parallel(LENGTH)(guided, prior, generator=torch.Generator().manual_seed(0))
    assert_follows(world.frequencies(samples), law)


def test_guided_transitions_tend_to_conditioning_as_steps_grow(world: World) -> None:
    label = Label(world)
    guided = ClassifierGuided(world.denoiser(LogLinear(eps=0.0)), label)
    assert not guided.reveals_at_random
    distances = [
        float((chain_law(guided, grid(steps)) - label.posterior).abs().sum() / 2)
        for steps in (4, 16, 64, 256)
    ]
    assert distances[-1] < 0.01
    assert all(more < 0.5 * fewer for fewer, more in itertools.pairwise(distances))
    prior = guided.process.prior((SAMPLES, LENGTH))
    samples = Ancestral(8)(guided, prior, generator=torch.Generator().manual_seed(0))
    assert_follows(world.frequencies(samples), chain_law(guided, grid(8)))


def test_what_a_classifier_says_of_a_row_is_kept_until_it_changes(world: World) -> None:
    label, counting = Label(world), Counting(world.denoiser(LogLinear(eps=0.0)))
    guided = ClassifierGuided(counting, label)
    prior = guided.process.prior((10, LENGTH))
    samples = Stepwise(100)(guided, prior, generator=torch.Generator().manual_seed(0))
    assert counting.row_evaluations <= 10 * (LENGTH + 1)
    # Of n masks 3 n changes, and the row as it is: of 3, 2, 1 and 0 masks.
    assert label.asked <= 10 * (9 + 6 + 3 + 4)
    plain = ClassifierGuided(world.denoiser(LogLinear(eps=0.0)), label)
    plain.denoiser, plain._gains = plain.denoiser.denoiser, Forgetful()  # pyright: ignore
    again = Stepwise(100)(plain, prior, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)


class Forgetful(RowCache):
    """Keeps nothing."""

    def get(self, ask, x_t, t, condition):  # type: ignore[no-untyped-def]
        return ask(x_t, t, condition)


def test_more_strength_gives_more_of_the_class(world: World) -> None:
    label = Label(world)
    shares = [
        float(
            law_of(ClassifierGuided(world.denoiser(LogLinear()), label, s), at_random(1, 1, 1))
            @ label.of_sequence.float()
        )
        for s in (0.0, 0.5, 1.0, 3.0)
    ]
    assert shares[0] == pytest.approx(label.prior, abs=1e-5)
    assert shares == sorted(shares)
    assert shares[-1] > 0.9


def test_guidance_works_on_a_process_without_masks(world: World) -> None:
    # p(y | x_t) of the clean sequence read as it stands: a classifier of noised sequences.
    process = Uniform(LogLinear(), VOCAB_SIZE, DATA_IDS)
    label = Label(world)
    guided = ClassifierGuided(ExactDenoiser(world, process), label)
    prior = process.prior((500, LENGTH), generator=torch.Generator().manual_seed(0))
    samples = Stepwise(32)(guided, prior, generator=torch.Generator().manual_seed(1))
    share = float(world.frequencies(samples).double() @ label.of_sequence) / 500
    assert share > label.prior + 0.15
    prior = process.prior((SAMPLES, LENGTH), generator=torch.Generator().manual_seed(2))
    samples = Stepwise(5)(guided, prior, generator=torch.Generator().manual_seed(3))
    assert_follows(world.frequencies(samples), chain_log_p(guided, grid(5)).exp())


def test_first_order_is_exact_for_a_classifier_that_is_linear(world: World) -> None:
    weight = torch.randn(LENGTH, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))

    def classifier(one_hot: Tensor) -> Tensor:
        return (one_hot * weight).sum((1, 2))

    plain = world.denoiser(LogLinear())
    x_t = torch.tensor([[MASK, 1, MASK], [MASK, MASK, MASK]])
    t = torch.full((2, 1), 0.7)
    exact = ClassifierGuided(plain, classifier, 2.0)
    first_order = ClassifierGuided(plain, classifier, 2.0, first_order=True)
    for read in (
        lambda d: d.log_x0(x_t, t),
        lambda d: d.log_transition(x_t, t, t / 2),
    ):
        torch.testing.assert_close(read(first_order), read(exact), atol=1e-5, rtol=1e-5)
    assert (exact.classifier_evaluations, first_order.classifier_evaluations) == (
        2 * (2 + 5 * LETTERS),
        2 * 2,
    )


def test_changes_are_told_to_the_classifier_in_batches(world: World) -> None:
    plain, label = world.denoiser(LogLinear()), Label(world)
    x_t, t = torch.full((4, LENGTH), MASK), torch.ones(4, 1)
    at_once = ClassifierGuided(plain, label).log_x0(x_t, t)
    torch.testing.assert_close(
        ClassifierGuided(plain, label, batch_size=5).log_x0(x_t, t), at_once
    )


class TwoWorlds(nn.Module):
    """A network that was told the class: 0, 1, or none of them (label 2, or nothing)."""

    def __init__(self, worlds: list[World]) -> None:
        super().__init__()
        mixture = torch.stack([w.probabilities for w in worlds]).mean(0)
        laws = [w.probabilities for w in worlds] + [mixture]
        self.networks = nn.ModuleList([ExactNetwork(worlds[0].sequences, p) for p in laws])

    def forward(
        self, tokens: Tensor, sigma: Tensor | None, condition: Tensor | None = None
    ) -> Tensor:
        label = 2 if condition is None else int(condition[0])
        return self.networks[label](tokens, sigma)


@pytest.fixture
def two_worlds() -> tuple[list[World], Denoiser]:
    worlds = [World(seed=0), World(seed=5)]
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
    subs = Subs(VOCAB_SIZE, MASK, DATA_IDS)
    return worlds, NetworkDenoiser(TwoWorlds(worlds), process, subs)


def test_a_conditional_denoiser_samples_its_class(
    two_worlds: tuple[list[World], Denoiser],
) -> None:
    worlds, denoiser = two_worlds
    conditional = Conditional(denoiser, 1)
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = Ancestral(500)(conditional, prior, generator=torch.Generator().manual_seed(0))
    # 500 steps are within 2e-3 of the law.
    assert_follows(worlds[1].frequencies(samples), worlds[1].probabilities)


def test_classifier_free_guidance_mixes_logarithms(
    two_worlds: tuple[list[World], Denoiser],
) -> None:
    _, denoiser = two_worlds
    x_t, t = torch.tensor([[MASK, 1, MASK]]), torch.full((1, 1), 0.5)
    told, untold = (d.log_x0(x_t, t)[..., :LETTERS] for d in (Conditional(denoiser, 0), denoiser))
    for strength in (0.0, 1.0, 2.5):
        guided = ClassifierFree(denoiser, 0, strength)
        expected = (strength * told + (1 - strength) * untold)[:, [0, 2]].softmax(-1)
        actual = guided.log_x0(x_t, t).exp()[:, [0, 2], :LETTERS]
        torch.testing.assert_close(actual, expected)
        where = x_t == MASK
        torch.testing.assert_close(guided.log_x0_at(x_t, t, where), guided.log_x0(x_t, t)[where])


def test_classifier_free_samples_follow_their_law(
    two_worlds: tuple[list[World], Denoiser],
) -> None:
    worlds, denoiser = two_worlds
    guided = ClassifierFree(denoiser, 1, 2.0)
    assert guided.reveals_at_random
    prior = denoiser.process.prior((SAMPLES, LENGTH))
    samples = Ancestral(8)(guided, prior, generator=torch.Generator().manual_seed(0))
    assert_follows(worlds[0].frequencies(samples), chain_law(guided, grid(8)))


def test_transitions_are_mixed_where_nothing_is_masked(
    two_worlds: tuple[list[World], Denoiser],
) -> None:
    _, denoiser = two_worlds
    guided = ClassifierFreeTransitions(denoiser, 0, 2.0)
    x_t, t, s = torch.tensor([[MASK, 1, MASK]]), torch.full((1, 1), 0.5), torch.full((1, 1), 0.2)
    told, untold = (d.log_transition(x_t, t, s) for d in (Conditional(denoiser, 0), denoiser))
    expected = (2 * told - untold)[:, [0, 2], : MASK + 1].softmax(-1)
    torch.testing.assert_close(
        guided.log_transition(x_t, t, s).exp()[:, [0, 2], : MASK + 1], expected
    )
    # The mask's share is mixed too, so the times of reveals move with the network.
    assert not guided.reveals_at_random


class ToldOfWorlds(Denoiser):
    """Exact for the world that the class names, and for the first where none is told."""

    def __init__(self, worlds: list[World], process: Uniform) -> None:
        super().__init__()
        self.exact = [ExactDenoiser(world, process) for world in worlds]
        self.process, self.time_conditioning = process, True

    def log_x0(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        told = 0 if condition is None else int(condition[0])
        return self.exact[told].log_x0(x_t, t)


def test_samples_by_mixed_transitions_follow_their_chain_without_masks() -> None:
    worlds = [World(0), World(1)]
    process = Uniform(LogLinear(), VOCAB_SIZE, DATA_IDS)
    guided = ClassifierFreeTransitions(ToldOfWorlds(worlds, process), 1, 2.0)
    prior = process.prior((SAMPLES, LENGTH), generator=torch.Generator().manual_seed(0))
    samples = Stepwise(5)(guided, prior, generator=torch.Generator().manual_seed(1))
    law = chain_log_p(guided, grid(5)).exp()
    likely = law > 1e-3  # chi-squared needs counts
    counts = worlds[0].frequencies(samples)[likely]
    assert_follows(counts, law[likely] / law[likely].sum())
    distances = [float((law - world.probabilities).abs().sum()) for world in worlds]
    assert distances[1] < distances[0]


def test_both_networks_are_counted(two_worlds: tuple[list[World], Denoiser]) -> None:
    _, denoiser = two_worlds
    counting = Counting(denoiser)
    guided = ClassifierFree(counting, 0, 2.0)
    Parallel(LENGTH)(guided, denoiser.process.prior((7, LENGTH)))
    assert counting.row_evaluations == 2 * 7 * LENGTH


def test_a_classifier_that_gives_several_values_is_refused(world: World) -> None:
    def classes(one_hot: Tensor) -> Tensor:
        return torch.zeros(len(one_hot), 2)

    guided = ClassifierGuided(world.denoiser(LogLinear()), classes)
    with pytest.raises(UserError, match=r"gives shape \(1, 2\) for 1 sequences, and one log p"):
        guided.log_x0(torch.full((1, LENGTH), MASK), torch.ones(1, 1))
    with pytest.raises(UserError, match="batch_size=0 must be at least 1; use"):
        ClassifierGuided(world.denoiser(LogLinear()), classes, batch_size=0)
