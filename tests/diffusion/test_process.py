"""The absorbing process against Bayes' rule with explicit matrices."""

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from genodiff.diffusion import (
    Absorbing,
    Cosine,
    Geometric,
    Hybrid,
    LearnedAbsorbing,
    LogLinear,
    NoiseSchedule,
    Process,
    Uniform,
)
from genodiff.diffusion.process import LOG_ZERO, absorbing, check_time
from genodiff.errors import UserError

VOCAB_SIZE, MASK = 5, 2
SCHEDULES = [LogLinear(), Cosine(), Geometric(sigma_min=1e-2, sigma_max=5.0)]


def transition_matrix(process: Absorbing, alpha: float) -> Tensor:
    """(k, k): q(column | row) for a step that keeps a token with probability alpha."""
    identity = torch.eye(VOCAB_SIZE, dtype=torch.float64)
    return alpha * identity + (1 - alpha) * identity[process.mask_id]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_posterior_is_bayes(schedule: NoiseSchedule) -> None:
    process = Absorbing(schedule, VOCAB_SIZE, MASK)
    s, t = (torch.tensor([[value]], dtype=torch.float64) for value in (0.3, 0.7))
    alpha_s, alpha_t = float(schedule.alpha(s)), float(schedule.alpha(t))
    to_s = transition_matrix(process, alpha_s)
    s_to_t = transition_matrix(process, alpha_t / alpha_s)
    for x0 in process.data_ids:
        for x_t in (x0, MASK):
            bayes = to_s[x0] * s_to_t[:, x_t]
            p_x0 = torch.eye(VOCAB_SIZE, dtype=torch.float64)[None, None, x0]
            posterior = process.posterior(torch.tensor([[x_t]]), p_x0, t, s)[0, 0]
            torch.testing.assert_close(posterior, bayes / bayes.sum(), rtol=1e-12, atol=1e-12)


def test_posterior_of_a_distribution_is_bayes_with_it_plugged_in() -> None:
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK)
    s, t = (torch.tensor([[value]], dtype=torch.float64) for value in (0.2, 0.9))
    p_x0 = torch.rand(1, 1, VOCAB_SIZE, dtype=torch.float64, generator=torch.Generator())
    p_x0 = p_x0 / p_x0.sum()  # the mask has probability too: it stays masked
    alpha_s, alpha_t = float(process.schedule.alpha(s)), float(process.schedule.alpha(t))
    at_s = p_x0[0, 0] @ transition_matrix(process, alpha_s)
    bayes = at_s * transition_matrix(process, alpha_t / alpha_s)[:, MASK]
    posterior = process.posterior(torch.tensor([[MASK]]), p_x0, t, s)[0, 0]
    torch.testing.assert_close(posterior, bayes / bayes.sum(), rtol=1e-12, atol=1e-12)


def test_times_may_differ_token_by_token() -> None:
    process = Absorbing(Cosine(), VOCAB_SIZE, MASK)
    generator = torch.Generator().manual_seed(0)
    x_t = torch.randint(VOCAB_SIZE, (4, 6), generator=generator)
    p_x0 = torch.rand(4, 6, VOCAB_SIZE, dtype=torch.float64, generator=generator)
    t = torch.rand(4, 6, dtype=torch.float64, generator=generator)
    s = t * torch.rand(4, 6, dtype=torch.float64, generator=generator)
    together = process.posterior(x_t, p_x0, t, s)
    for i in range(6):
        one = slice(i, i + 1)
        alone = process.posterior(x_t[:, one], p_x0[:, one], t[:, one], s[:, one])
        torch.testing.assert_close(together[:, one], alone)


def test_log_posterior_of_a_forbidden_token_is_finite_with_finite_gradient() -> None:
    process = Absorbing(LogLinear(eps=0.0), VOCAB_SIZE, MASK)
    log_p_x0 = torch.tensor([[[0.0, LOG_ZERO, LOG_ZERO, -1.0, LOG_ZERO]]], requires_grad=True)
    t, s = torch.ones(1, 1), torch.zeros(1, 1)
    log_p = process.log_posterior(torch.tensor([[MASK]]), log_p_x0, t, s)
    assert log_p.isfinite().all()
    log_p.sum().backward()
    assert log_p_x0.grad is not None
    assert log_p_x0.grad.isfinite().all()


def test_corrupt_masks_at_the_rate_of_the_schedule() -> None:
    # Binomial, n = 10^5: |frequency - rate| < 5 sd fails by chance once in 10^6 (times 3 rows).
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK)
    t = torch.tensor([[0.05], [0.5], [1.0]], dtype=torch.float64)
    x_t = process.corrupt(
        torch.zeros(3, 100_000, dtype=torch.int64), t, generator=torch.Generator().manual_seed(0)
    )
    rate = process.schedule.mask_rate(t)[:, 0]
    frequency = process.is_masked(x_t).double().mean(-1)
    assert ((frequency - rate).abs() < 5 * (rate * (1 - rate) / 100_000).sqrt()).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_going_on_from_a_time_masks_what_is_left_at_the_rate_of_the_step(
    schedule: NoiseSchedule,
) -> None:
    process = Absorbing(schedule, VOCAB_SIZE, MASK, (0, 1))
    x0 = torch.tensor([[0, 1, 4, MASK]]).repeat(1, 50_000)
    s, t = (torch.tensor([[value]], dtype=torch.float64) for value in (0.3, 0.7))
    generator = torch.Generator().manual_seed(0)
    x_s = process.corrupt(x0, s, generator=generator)
    x_t = process.corrupt_from(x_s, s, t, generator=generator)
    stays = ~process.is_data(x0)
    assert torch.equal(x_t[stays], x0[stays])
    assert ((x_t == x_s) | (x_t == MASK)).all()
    # Binomial, n = 10^5: 5 sd; false alarm rate 6e-7.
    rate = process.schedule.mask_rate(t)
    frequency = process.is_masked(x_t[~stays]).double().mean()
    assert ((frequency - rate).abs() < 5 * (rate * (1 - rate) / 100_000).sqrt()).all()
    kept = process.schedule.alpha(t) / process.schedule.alpha(s)
    left = ~stays & ~process.is_masked(x_s)
    frequency = 1 - process.is_masked(x_t[left]).double().mean()
    assert ((frequency - kept).abs() < 5 * (kept * (1 - kept) / left.sum()).sqrt()).all()


def test_going_on_at_a_pace_of_each_tokens_own_reaches_the_later_time() -> None:
    process = LearnedAbsorbing(LogLinear(), VOCAB_SIZE, MASK, (0, 1))
    powers = torch.tensor([0.5, 2.5, 1.0, 1.0, 1.0], dtype=torch.float64)
    process.softplus_inverse = torch.nn.Parameter(powers.expm1().log())
    s, t = (torch.tensor([[value]], dtype=torch.float64) for value in (0.3, 0.7))
    generator = torch.Generator().manual_seed(0)
    for token in (0, 1):
        x0 = torch.full((1, 100_000), token)
        x_s = process.corrupt(x0, s, generator=generator)
        x_t = process.corrupt_from(x_s, s, t, generator=generator)
        assert ((x_t == x_s) | (x_t == MASK)).all()
        rate = process.schedule.mask_rate(t) ** powers[token]
        frequency = process.is_masked(x_t).double().mean()  # within 5 sd, as above
        assert ((frequency - rate).abs() < 5 * (rate * (1 - rate) / 100_000).sqrt()).all()
    other = torch.tensor([[3, MASK]])
    assert torch.equal(process.corrupt_from(other, s, t, generator=generator), other)


@hypothesis.given(
    tokens=st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=12),
    data_ids=st.sets(st.sampled_from([i for i in range(VOCAB_SIZE) if i != MASK]), min_size=1),
    t=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**16),
)
@hypothesis.settings(max_examples=50, deadline=None)
def test_corrupt_never_touches_what_is_not_data(
    tokens: list[int], data_ids: set[int], t: float, seed: int
) -> None:
    process = Absorbing(LogLinear(eps=0.0), VOCAB_SIZE, MASK, sorted(data_ids))
    x0 = torch.tensor([tokens])
    given = x0.clone()
    x_t = process.corrupt(x0, torch.full((1, 1), t), generator=torch.Generator().manual_seed(seed))
    is_data = torch.tensor([[token in data_ids for token in tokens]])
    assert torch.equal(process.is_data(x0), is_data)
    assert torch.equal(x_t[~is_data], x0[~is_data])
    assert ((x_t == x0) | (x_t == MASK)).all()
    assert torch.equal(x0, given)


def test_prior_is_all_mask() -> None:
    assert Absorbing(LogLinear(), VOCAB_SIZE, MASK).prior((2, 3)).tolist() == [[MASK] * 3] * 2


def test_score_is_the_ratio_of_marginals() -> None:
    # One token, p(x_0) known: p_t(y) = alpha p_0(y) for a letter y and 1 - alpha for the mask.
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK)
    t = torch.tensor([[0.4]], dtype=torch.float64)
    p_0 = torch.tensor([0.5, 0.1, 0.0, 0.3, 0.1], dtype=torch.float64)
    alpha = float(process.schedule.alpha(t))
    marginal = alpha * p_0
    marginal[MASK] = 1 - alpha
    log_p_x0 = p_0.log().clamp(min=LOG_ZERO)[None, None]
    at_mask = process.log_score(torch.tensor([[MASK]]), log_p_x0, t).exp()[0, 0]
    torch.testing.assert_close(at_mask, marginal / marginal[MASK])
    # From a clean letter only the mask is a step away, with the odds of being masked.
    at_letter = process.log_score(torch.tensor([[3]]), log_p_x0, t).exp()[0, 0]
    assert at_letter.tolist() == pytest.approx([0, 0, (1 - alpha) / alpha, 1, 0])


def learned(*powers: float) -> LearnedAbsorbing:
    process = LearnedAbsorbing(LogLinear(0.02), 6, 4, (0, 2, 3))
    with torch.no_grad():
        process.softplus_inverse[[0, 2, 3]] = torch.tensor(powers).expm1().log()
    return process


@pytest.mark.parametrize(
    "process",
    [
        Absorbing(LogLinear(0.02), 6, 4, (0, 2, 3)),
        Uniform(LogLinear(0.02), 6, (0, 2, 3)),
        Hybrid(LogLinear(0.02), 6, 4, (0, 2, 3), uniform=0.3),
        learned(0.5, 1.0, 3.0),
    ],
    ids=lambda process: type(process).__name__,
)
@pytest.mark.parametrize("time", [0.0, 0.3, 1.0])
def test_information_is_the_divergence_of_what_each_token_becomes(
    process: Process, time: float
) -> None:
    t = torch.full((1, 1), time, dtype=torch.float64)
    one_hot = torch.full((1, 3, 6), LOG_ZERO, dtype=torch.float64)
    one_hot[0, range(3), [0, 2, 3]] = 0.0
    q = process.log_marginal(one_hot, t)[0].detach().exp()
    kl = torch.where(q > 0, q * (q / q.mean(0)).log(), 0.0).sum(-1)
    information = process.information(t).detach()
    torch.testing.assert_close(information[[0, 2, 3]], kl, rtol=1e-9, atol=1e-12)
    assert (information[[1, 4, 5]] == 0).all()


@pytest.mark.parametrize("time", [0.0, 1e-9, 0.5, 1.0])
def test_information_has_a_gradient_at_every_time(time: float) -> None:
    process = LearnedAbsorbing(LogLinear(0.0), 6, 4, (0, 2, 3))
    process.information(torch.full((1, 1), time, dtype=torch.float64)).sum().backward()
    assert process.softplus_inverse.grad is not None
    assert process.softplus_inverse.grad.isfinite().all()


def test_a_time_without_its_second_axis_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"shape \(2,\) is not \(b, 1\) or \(b, l\); use t\[:, None\]"
    ):
        check_time(torch.rand(2))


@pytest.mark.parametrize("data_ids", [[], [MASK], [0, VOCAB_SIZE], [-1]])
def test_impossible_data_ids_are_refused(data_ids: list[int]) -> None:
    with pytest.raises(UserError, match=r"data_ids=.* without the mask 2 are needed; leave"):
        Absorbing(LogLinear(), VOCAB_SIZE, MASK, data_ids)


def test_a_mask_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(UserError, match=r"mask_id=5 is not one of 5 tokens; use 0 \.\. 4"):
        Absorbing(LogLinear(), VOCAB_SIZE, VOCAB_SIZE)


def test_what_counts_masks_names_itself_when_refusing_another_process() -> None:
    process = Absorbing(LogLinear(), VOCAB_SIZE, MASK)
    assert absorbing(process, "FirstHitting") is process
    with pytest.raises(UserError, match="FirstHitting counts masks, and needs an Absorb"):
        absorbing(Uniform(LogLinear(), VOCAB_SIZE, (0, 1)), "FirstHitting")
