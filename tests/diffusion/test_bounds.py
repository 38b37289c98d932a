"""Every objective of every process against the world that is small enough to enumerate: bounds are
bounds, exact denoisers reach the entropy, random estimates and their gradients are unbiased."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from genodiff.diffusion import (
    Absorbing,
    AntitheticTimes,
    BlockTimes,
    ContinuousNelbo,
    Cosine,
    CrossEntropy,
    Denoiser,
    DenoisingObjective,
    DiscreteNelbo,
    ExactlyK,
    Geometric,
    Hybrid,
    LearnedAbsorbing,
    LearnedNelbo,
    Linear,
    LogLinear,
    MaskedCosine,
    Mean,
    NetworkDenoiser,
    NoiseSchedule,
    Parameterization,
    Polynomial,
    Process,
    Score,
    ScoreEntropy,
    Shrunk,
    Subs,
    Uniform,
)
from genodiff.diffusion.objective import end_nats
from genodiff.errors import UserError
from tests.toy import (
    DATA_IDS,
    LENGTH,
    MASK,
    UNKNOWN,
    VOCAB_SIZE,
    ExactDenoiser,
    TableNetwork,
    World,
    chain_log_p,
    expected_nats,
    gauss_legendre,
    jump_log_p,
)

ABSORBING = Absorbing(LogLinear(eps=0.0), VOCAB_SIZE, MASK, DATA_IDS)
UNIFORM = Uniform(LogLinear(eps=0.0), VOCAB_SIZE, DATA_IDS)
HYBRID = Hybrid(LogLinear(eps=0.0), VOCAB_SIZE, MASK, DATA_IDS, uniform=0.2)
# The score of uniform noise must be 1 at alpha=0, or its entropy is infinite.
STOPPING = Uniform(LogLinear(eps=0.05), VOCAB_SIZE, DATA_IDS)
WHOLE = [
    ABSORBING,
    Absorbing(MaskedCosine(), VOCAB_SIZE, MASK, DATA_IDS),
    UNIFORM,
    Uniform(Cosine(eps=0.0), VOCAB_SIZE, DATA_IDS),
    HYBRID,
    Hybrid(Polynomial(2.0), VOCAB_SIZE, MASK, DATA_IDS, uniform=0.5, gamma=0.5),
]
SUBS = Subs(VOCAB_SIZE, MASK, DATA_IDS)
MEAN = Mean(VOCAB_SIZE, MASK, DATA_IDS, subs_masking=True)
FREE_MEAN = Mean(VOCAB_SIZE, MASK, DATA_IDS)
SCORE = Score(VOCAB_SIZE, MASK, DATA_IDS)


def nodes(count: int) -> tuple[Tensor, Tensor]:
    """Quadrature on [0, 1], crowded at both ends, where integrands have infinite slopes."""
    u, weight = gauss_legendre(0.0, 1.0, count)
    t = u**3 * (10 - 15 * u + 6 * u**2)
    return t, weight * 30 * u**2 * (1 - u) ** 2


def fine_grid(steps: int) -> Tensor:
    """Falling times from 1 to 0, crowded at both ends."""
    u = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return u**2 * (3 - 2 * u)


def table(process: Process, reading: Parameterization, seed: int = 0) -> NetworkDenoiser:
    # A drift with sigma needs a finite sigma(1): told the time instead.
    network = TableNetwork(seed)
    model = NetworkDenoiser(network, process, reading, told="time")
    model.time_conditioning = True
    return model


def cross_entropy(world: World, log_p: Tensor) -> float:
    return float(-(world.probabilities * log_p).sum())


@pytest.mark.parametrize("process", WHOLE, ids=repr)
def test_score_entropy_of_the_exact_denoiser_is_the_entropy(
    process: Process, world: World
) -> None:
    nelbo = expected_nats(world, ExactDenoiser(world, process), ScoreEntropy(), *nodes(80))
    # Hybrid noise comes and goes as a root of t: the quadrature has that error left.
    rel = 1e-4 if isinstance(process, Hybrid) else 1e-8
    assert float(nelbo) == pytest.approx(world.entropy(), rel=rel)


@pytest.mark.parametrize("process", WHOLE, ids=repr)
def test_chain_of_the_exact_denoiser_falls_to_the_entropy(process: Process, world: World) -> None:
    model, previous = ExactDenoiser(world, process), torch.inf
    for steps in (1, 3, 10, 60):
        t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
        weight = torch.full_like(t, 1 / steps)
        nelbo = float(expected_nats(world, model, DiscreteNelbo(steps), t, weight))
        assert world.entropy() < nelbo < previous
        previous = nelbo
    assert previous < 1.03 * world.entropy()


CASES = [
    (ABSORBING, SUBS),
    (ABSORBING, FREE_MEAN),
    (ABSORBING, SCORE),
    (UNIFORM, MEAN),
    (STOPPING, SCORE),
    (HYBRID, MEAN),
]
every_case = pytest.mark.parametrize(
    ("process", "reading"), CASES, ids=lambda part: type(part).__name__
)


@every_case
@pytest.mark.parametrize("seed", [0, 1])
def test_score_entropy_bounds_log_p_of_random_networks(
    process: Process, reading: Parameterization, seed: int, world: World
) -> None:
    model = table(process, reading, seed)
    nelbo = float(expected_nats(world, model, ScoreEntropy(), *nodes(24)).detach())
    exact = cross_entropy(world, jump_log_p(model, fine_grid(300)))
    assert exact < nelbo
    assert nelbo < (8 if reading is SCORE else 2) * exact


@pytest.mark.parametrize(
    ("process", "reading"), [c for c in CASES if c[1] is not SCORE], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_chain_bounds_log_p_of_random_networks(
    process: Process, reading: Parameterization, steps: int, world: World
) -> None:
    model = table(process, reading)
    t = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    weight = torch.full_like(t, 1 / steps)
    nelbo = float(expected_nats(world, model, DiscreteNelbo(steps), t, weight).detach())
    exact = cross_entropy(world, chain_log_p(model, t.flip(0)))
    if steps == 1 and process is not UNIFORM:  # one step from all masks: nothing to bound
        assert nelbo == pytest.approx(exact, rel=1e-9)
    else:
        assert exact < nelbo < 2 * exact


def test_continuous_nelbo_bounds_log_p_and_is_the_score_entropy_of_masking(world: World) -> None:
    model = table(ABSORBING, SUBS)
    nelbo = float(expected_nats(world, model, ContinuousNelbo(), *nodes(24)).detach())
    rates = float(expected_nats(world, model, ScoreEntropy(), *nodes(24)).detach())
    assert nelbo == pytest.approx(rates, rel=1e-9)
    assert cross_entropy(world, jump_log_p(model, fine_grid(300))) < nelbo


def test_exactly_k_bounds_log_p_of_a_network_without_a_time(world: World) -> None:
    # Its reverse process reveals one token after the other, in any order alike.
    model = NetworkDenoiser(TableNetwork(), ABSORBING, SUBS)
    nelbo = float(any_order(world, model).detach())
    integral = float(expected_nats(world, model, ContinuousNelbo(), *nodes(24)).detach())
    assert nelbo == pytest.approx(integral, rel=1e-9)
    assert cross_entropy(world, jump_log_p(model, fine_grid(300))) < nelbo


@pytest.mark.parametrize(
    "schedule", [LogLinear(0.02), Shrunk(MaskedCosine(), 0.01), Linear(0.01, 4.0)]
)
def test_counting_the_ends_makes_any_schedule_a_bound(
    schedule: NoiseSchedule, world: World
) -> None:
    process = Absorbing(schedule, VOCAB_SIZE, MASK, DATA_IDS)
    model = ExactDenoiser(world, process)
    short = float(expected_nats(world, model, ContinuousNelbo(), *nodes(24)))
    whole = float(expected_nats(world, model, ContinuousNelbo(ends=True), *nodes(24)))
    assert short < world.entropy() < whole
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    told = float(schedule.mask_rate(ends)[0] + schedule.alpha(ends)[1])
    assert whole - short == pytest.approx(told * LENGTH * math.log(3), rel=1e-6)


@pytest.mark.parametrize(
    "process",
    [
        Absorbing(LogLinear(0.02), VOCAB_SIZE, MASK, DATA_IDS),
        STOPPING,
        Uniform(Linear(0.01, 4.0), VOCAB_SIZE, DATA_IDS),
        Hybrid(LogLinear(0.02), VOCAB_SIZE, MASK, DATA_IDS, uniform=0.2),
        LearnedAbsorbing(LogLinear(0.02), VOCAB_SIZE, MASK, DATA_IDS, powers=2.0),
    ],
    ids=lambda process: type(process).__name__,
)
def test_the_ends_make_a_bound_over_any_range_of_any_process(
    process: Process, world: World
) -> None:
    t, weight = gauss_legendre(0.02, 1.0, 60)
    model = ExactDenoiser(world, process)
    short, whole = (
        float(expected_nats(world, model, objective, t, weight).detach())
        for objective in (
            ScoreEntropy(AntitheticTimes(t_min=0.02)),
            ScoreEntropy(AntitheticTimes(t_min=0.02), ends=True),
        )
    )
    assert short < world.entropy() < whole < 1.2 * world.entropy()


def test_the_ends_of_uniform_noise_are_its_entropies() -> None:
    # A token of three, kept with probability a: H of a + (1 - a)/3 and two others at t_min, and
    # log 3 less the same at the end.
    def entropy(a: float) -> float:
        p, rest = a + (1 - a) / 3, (1 - a) / 3
        return -p * math.log(p) - 2 * rest * math.log(rest)

    x0 = torch.tensor([[0, UNKNOWN, 2]])
    nats = 0.9 * end_nats(STOPPING, x0, 0.1)  # the draw's weight, 1 - t_min, is divided out
    expected = entropy(1 - 0.95 * 0.1) + math.log(3) - entropy(0.05)
    assert nats[0].tolist() == pytest.approx([expected, 0.0, expected])
    assert end_nats(STOPPING, x0, None)[0, 0].item() == pytest.approx(math.log(3) - entropy(0.05))


def test_the_reconstruction_is_told_by_the_network_at_time_zero(world: World) -> None:
    # For masking from alpha(0)=1 the chain is the same but for its end.
    model = table(ABSORBING, MEAN)
    t = torch.arange(1, 4, dtype=torch.float64) / 3
    weight = torch.full_like(t, 1 / 3)
    nelbo = expected_nats(world, model, DiscreteNelbo(3, reconstruct=True), t, weight)
    chain = expected_nats(world, model, DiscreteNelbo(3), t, weight)
    start = torch.zeros(27, 1, dtype=torch.float64)
    told = model.log_x0(world.sequences, start).gather(-1, world.sequences[..., None])
    reconstruction = -(world.probabilities @ told[..., 0].sum(-1))
    torch.testing.assert_close(nelbo - chain, reconstruction)
    assert float(reconstruction.detach()) > 0


def published_udlm(model: Denoiser, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """UDLM's integrand (Schiff et al. 2024) as it is written, tokens 0, 1, 2."""
    k, alpha = 3, model.process.schedule.alpha(t)[..., None]
    slope = model.process.schedule.dalpha(t)[..., None]
    bar = k * alpha * torch.nn.functional.one_hot(x0, VOCAB_SIZE)[..., :k] + 1 - alpha
    bar_model = k * alpha * model.log_x0(x_t, t).exp()[..., :k] + 1 - alpha
    i = x_t[..., None]
    here, here_model = bar.gather(-1, i), bar_model.gather(-1, i)
    logs = (bar / here * ((here_model * bar) / (bar_model * here)).log()).sum(-1, keepdim=True)
    return (slope / (k * alpha) * (k / here - k / here_model - logs))[..., 0]


def rao_blackwellized(model: Denoiser, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The same in the form of Duo (Sahoo et al. 2025), tokens 0, 1, 2."""
    k, alpha = 3, model.process.schedule.alpha(t)
    slope = model.process.schedule.dalpha(t)
    bar_model = k * alpha[..., None] * model.log_x0(x_t, t).exp()[..., :k] + 1 - alpha[..., None]
    same = (x0 == x_t).double()
    zeta = (1 - alpha) / (k * alpha + 1 - alpha)
    bar = 1 - alpha + k * alpha * same
    here = bar_model.gather(-1, x_t[..., None])[..., 0]
    there = bar_model.gather(-1, x0[..., None])[..., 0]
    ratios = k * here.log() - bar_model.log().sum(-1)
    inner = k / bar - k / here - (zeta * same + 1 - same) * ratios
    inner = inner - k * alpha / (1 - alpha) * (here / there).log() * (1 - same)
    offset = ((k - 1) * zeta * same - (1 - same) / zeta) * zeta.log()
    return slope / (k * alpha) * (inner - offset)


def test_uniform_diffusion_is_udlm_and_its_rao_blackwellized_form(world: World) -> None:
    model = table(UNIFORM, MEAN)
    generator = torch.Generator().manual_seed(0)
    x0 = world.sequences.repeat(20, 1)
    t = torch.rand(len(x0), 1, dtype=torch.float64, generator=generator)
    x_t = UNIFORM.corrupt(x0, t, generator=generator)
    nats = ScoreEntropy().at(model, x0, x_t, t)
    torch.testing.assert_close(nats, published_udlm(model, x0, x_t, t), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(nats, rao_blackwellized(model, x0, x_t, t), rtol=1e-8, atol=1e-10)
    assert (nats >= 0).all()


def test_hybrid_diffusion_is_gidd(world: World) -> None:
    # von Ruette et al. 2025: weight times (KL of marginals + Itakura-Saito divergence).
    model = table(HYBRID, MEAN)
    generator = torch.Generator().manual_seed(0)
    x0 = world.sequences.repeat(20, 1)
    t = torch.rand(len(x0), 1, dtype=torch.float64, generator=generator)
    x_t = HYBRID.corrupt(x0, t, generator=generator)
    alpha, noise = HYBRID.schedule.alpha(t)[..., None], HYBRID.noise(t)
    q = alpha * torch.nn.functional.one_hot(x0, VOCAB_SIZE) + noise
    p = alpha * model.log_x0(x_t, t).exp() + noise
    q_z, p_z = (law.gather(-1, x_t[..., None])[..., 0] for law in (q, p))
    kl = torch.where(q > 0, q * (q / p).log(), 0.0).sum(-1)
    itakura_saito = q_z / p_z - (q_z / p_z).log() - 1
    rate = HYBRID.log_jump_rate(x_t, t).exp()
    published = rate / q_z * (kl + itakura_saito)
    nats = ScoreEntropy().at(model, x0, x_t, t)
    torch.testing.assert_close(nats, published, rtol=1e-7, atol=1e-9)


EVERY: list[tuple[DenoisingObjective, Process, Parameterization]] = [
    (ContinuousNelbo(), ABSORBING, SUBS),
    (ContinuousNelbo(ends=True), Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS), SUBS),
    (CrossEntropy(), ABSORBING, SUBS),
    (ExactlyK(), ABSORBING, SUBS),
    (DiscreteNelbo(7), ABSORBING, SUBS),
    (DiscreteNelbo(7, reconstruct=True), ABSORBING, FREE_MEAN),
    (DiscreteNelbo(7), UNIFORM, MEAN),
    (DiscreteNelbo(7), HYBRID, MEAN),
    (ScoreEntropy(), ABSORBING, SCORE),
    (ScoreEntropy(), STOPPING, SCORE),
    (ScoreEntropy(), UNIFORM, MEAN),
    (ScoreEntropy(), HYBRID, MEAN),
]
every_objective = pytest.mark.parametrize(
    ("objective", "process", "reading"), EVERY, ids=lambda part: type(part).__name__
)


def enumerated(
    world: World, model: Denoiser, objective: DenoisingObjective, exactly_k: Callable[..., Tensor]
) -> Tensor:
    """The expectation of an objective."""
    if isinstance(objective, ExactlyK):
        return exactly_k(world, model)
    if isinstance(objective, DiscreteNelbo):
        t = torch.arange(1, objective.steps + 1, dtype=torch.float64) / objective.steps
        return expected_nats(world, model, objective, t, torch.full_like(t, 1 / objective.steps))
    return expected_nats(world, model, objective, *nodes(24))


def any_order(world: World, model: Denoiser) -> Tensor:
    """E[nats a sequence] of exactly-k masks, k uniform and then the mask: exact."""
    total, t = torch.zeros((), dtype=torch.float64), torch.ones(27, 1, dtype=torch.float64)
    for mask in world.masks[1:]:
        k = int(mask.sum())
        ways = int((world.masks.sum(-1) == k).sum())
        x_t = torch.where(mask, MASK, world.sequences)
        t = model.process.schedule.inverse(torch.full((27, 1), 1 - k / LENGTH).double())
        nats = ExactlyK().at(model, world.sequences, x_t, t).sum(-1)
        total = total + world.probabilities @ nats / ways / LENGTH
    return total


@every_objective
def test_random_gradients_are_unbiased(
    objective: DenoisingObjective, process: Process, reading: Parameterization, world: World
) -> None:
    # Along one direction in the space of logits, that of steepest ascent: mean of 300 batches of
    # 64, to 5 standard errors (false alarm rate 6e-7 each), for the value and its derivative.
    model = table(process, reading)
    leaves = list(model.parameters())
    generator = torch.Generator().manual_seed(3)
    exact = enumerated(world, model, objective, any_order)
    direction = torch.autograd.grad(exact, leaves, retain_graph=True)

    def along(loss: Tensor) -> Tensor:
        gradients = torch.autograd.grad(loss, leaves)
        return torch.stack(
            [(g * d).sum() for g, d in zip(gradients, direction, strict=True)]
        ).sum()

    values, slopes = [], []
    for _ in range(300):
        rows = torch.multinomial(world.probabilities, 64, replacement=True, generator=generator)
        loss = objective(model, world.sequences[rows], generator=generator).sum(-1).mean()
        values.append(loss.detach())
        slopes.append(along(loss))
    for estimates, expected in ((values, exact.detach()), (slopes, along(exact))):
        draws = torch.stack(estimates)
        error = float(draws.std()) / len(draws) ** 0.5
        assert abs(float(draws.mean() - expected)) < 5 * error
        assert abs(float(expected)) > 5 * error  # and the test could tell it from nothing


SCHEDULES = [
    LogLinear(),
    LogLinear(eps=0.0),
    Cosine(eps=0.0),
    MaskedCosine(),
    Linear(0.0, 20.0),
    Geometric(),
    Shrunk(LogLinear(eps=0.0)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@every_objective
def test_nothing_is_nan_at_any_time(
    objective: DenoisingObjective,
    process: Process,
    reading: Parameterization,
    schedule: NoiseSchedule,
) -> None:
    kinds = {
        Absorbing: Absorbing(schedule, VOCAB_SIZE, MASK, DATA_IDS),
        Uniform: Uniform(schedule, VOCAB_SIZE, DATA_IDS),
        Hybrid: Hybrid(schedule, VOCAB_SIZE, MASK, DATA_IDS),
    }
    process = kinds[type(process)]
    x0 = torch.tensor([[0, UNKNOWN, 2], [1, 1, 0], [UNKNOWN] * 3]).repeat(6, 1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        model = table(process, reading)
        model.network.to(dtype)
        for t in (1e-16, 1e-3, 0.5, 1 - 1e-12, 1.0):
            times = torch.full((len(x0), 1), t, dtype=torch.float64)
            generator = torch.Generator().manual_seed(0)
            nats = objective.at(model, x0, process.corrupt(x0, times, generator=generator), times)
            assert nats.isfinite().all(), (dtype, t)
            assert (nats[x0 == UNKNOWN] == 0).all()
            if dtype is not torch.float16:  # whose weights' gradients of 1/t do not fit
                nats.sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters()), dtype


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
@every_case
def test_no_chain_is_nan_at_any_step(
    process: Process, reading: Parameterization, steps: int, world: World
) -> None:
    model = table(process, reading).to(torch.float32)
    for reconstruct in (False, True):
        objective = DiscreteNelbo(steps, reconstruct=reconstruct)
        for step in {1, 2, steps // 2 + 1, steps}:
            t = torch.full((27, 1), min(step, steps) / steps, dtype=torch.float64)
            generator = torch.Generator().manual_seed(0)
            x_t = process.corrupt(world.sequences, t, generator=generator)
            nats = objective.at(model, world.sequences, x_t, t)
            assert nats.isfinite().all()
            nats.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_clipped_times_make_a_loss_which_has_no_ends() -> None:
    clipped = BlockTimes(4, low=0.3, high=0.8)
    assert ContinuousNelbo(clipped).kind == "loss"
    assert ContinuousNelbo(BlockTimes(4)).kind == ContinuousNelbo().kind == "bound"
    for make in (ContinuousNelbo, ScoreEntropy, LearnedNelbo):
        with pytest.raises(
            UserError, match=r"ends=True with BlockTimes.*use ends=False, or times"
        ):
            make(clipped, ends=True)


def test_readings_that_do_not_fit_a_process_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"Subs carries .* for masking alone.* use the param.* Mean"
    ):
        NetworkDenoiser(TableNetwork(), UNIFORM, SUBS)
    with pytest.raises(UserError, match="ContinuousNelbo counts masks, and needs an Absorbing"):
        ContinuousNelbo()(table(UNIFORM, MEAN), torch.zeros(2, 3).long(), generator=None)
