import math

import pytest
import torch

from genodiff.diffusion import (
    Ancestral,
    LogLinear,
    Nucleus,
    Reshaped,
    Stepwise,
    Temperature,
    Tweedie,
)
from genodiff.errors import UserError
from tests.diffusion.test_revealing import at_random, law_of
from tests.diffusion.test_sampling import assert_follows
from tests.toy import LENGTH, MASK, World

P = torch.tensor([[0.5, 0.25, 0.15, 0.1], [0.97, 0.01, 0.01, 0.01]], dtype=torch.float64)


def test_a_temperature_is_a_power() -> None:
    for temperature in (0.5, 1.0, 3.0):
        power = P ** (1 / temperature)
        expected = power / power.sum(-1, keepdim=True)
        torch.testing.assert_close(Temperature(temperature)(P.log()).exp(), expected)


def test_no_temperature_takes_the_likeliest_token() -> None:
    greedy = Temperature(0.0)(P.log()).exp()
    assert torch.equal(greedy, torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]]).double())
    tied = Temperature(0.0)(torch.tensor([[0.4, 0.4, 0.2]]).log()).exp()
    torch.testing.assert_close(tied, torch.tensor([[0.5, 0.5, 0.0]]))


def test_a_temperature_below_what_float32_holds_takes_the_likeliest_token() -> None:
    sharp = Temperature(1e-39)(torch.tensor([0.5, 0.3, 0.2]).log()).exp()
    assert sharp.tolist() == [1.0, 0.0, 0.0]


def test_rounding_keeps_no_token_behind_those_that_reach_p() -> None:
    log_p = torch.tensor([0.5, 0.25, 0.15, 0.1]).log()
    assert (Nucleus(0.75)(log_p).exp() > 0).tolist() == [True, True, False, False]


@pytest.mark.parametrize(("p", "kept"), [(0.4, 1), (0.51, 2), (0.74, 2), (0.76, 3), (1.0, 4)])
def test_the_token_that_crosses_p_is_kept(p: float, kept: int) -> None:
    nucleus = Nucleus(p)(P.log()).exp()
    expected = torch.where(torch.arange(4) < kept, P[0], 0.0)
    torch.testing.assert_close(nucleus[0], expected / expected.sum())


@pytest.mark.parametrize("p", [1e-6, 1e-9, 1e-300])
def test_the_likeliest_token_is_kept_however_small_p_is(p: float) -> None:
    for log_p in (P.log(), P.float().log()):
        assert (Nucleus(p)(log_p).exp() > 0).tolist() == [[True, False, False, False]] * 2


def test_equally_likely_tokens_are_not_all_kept() -> None:
    even = Nucleus(0.5)(torch.full((4,), 0.25).double().log()).exp()
    assert sorted(even.tolist()) == pytest.approx([0, 0, 0.5, 0.5])


def test_impossible_tokens_stay_impossible_however_hot() -> None:
    log_p = torch.tensor([math.log(0.5), math.log(0.5), -1e6])
    for temperature in (100.0, 1e5):
        p = Temperature(temperature)(log_p).exp()
        torch.testing.assert_close(p, torch.tensor([0.5, 0.5, 0.0]))
    assert float(Nucleus(1.0)(log_p).exp()[2]) == 0


@pytest.mark.parametrize("reshape", [Temperature(0.5), Nucleus(0.6)], ids=repr)
def test_samples_of_a_reshaped_denoiser_follow_its_law(
    reshape: Temperature | Nucleus, world: World
) -> None:
    denoiser = Reshaped(world.denoiser(LogLinear(eps=0.0)), reshape)
    assert denoiser.reveals_at_random
    prior = denoiser.process.prior((5000, LENGTH))
    generator = torch.Generator().manual_seed(0)
    samples = Ancestral(1000)(denoiser, prior, generator=generator)
    law = law_of(denoiser, at_random(1, 1, 1))
    possible = law > 0
    assert_follows(world.frequencies(samples)[possible], law[possible])
    assert float((law - world.probabilities).abs().sum()) > 0.2


def test_reshapes_act_one_after_the_other(world: World) -> None:
    plain = world.denoiser(LogLinear())
    x_t, t = torch.tensor([[MASK, 1, MASK]]), torch.ones(1, 1)
    both = Reshaped(plain, Temperature(0.5), Nucleus(0.8)).log_x0(x_t, t)
    assert torch.equal(both, Nucleus(0.8)(Temperature(0.5)(plain.log_x0(x_t, t))))
    where = x_t == MASK
    at = Reshaped(plain, Temperature(0.5), Nucleus(0.8)).log_x0_at(x_t, t, where)
    torch.testing.assert_close(at, both[where])


def test_transitions_of_their_own_are_not_lost(world: World) -> None:
    with pytest.raises(ValueError, match=r"turn it round: Tweedie\(Reshaped"):
        Reshaped(Tweedie(world.denoiser(LogLinear())), Temperature(0.5))
    stepped = Stepwise(4)(
        Reshaped(world.denoiser(LogLinear()), Temperature(0.0)), torch.full((3, LENGTH), MASK)
    )
    assert (stepped < MASK).all()


def test_impossible_values_are_refused() -> None:
    with pytest.raises(UserError, match=r"temperature=-1\.0 must be 0 or more; use e.g. 0.8"):
        Temperature(-1.0)
    with pytest.raises(UserError, match=r"nucleus=0\.0 is a probability, in \(0, 1\]; use"):
        Nucleus(0.0)
