import json
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from genodiff.batch import TokenBatch
from genodiff.diffusion import Absorbing, Cosine, LogLinear, NetworkDenoiser, Subs
from genodiff.errors import UserError
from genodiff.evaluation import AnyOrder, Chain, Estimator, Likelihood, nelbo, published
from tests.toy import LENGTH, World

LETTERS, MASK, N, PAD, VOCAB = 4, 4, 5, 6, 7
BOTH: dict[str, Estimator] = {"exactly_k": AnyOrder(), "paper": published()}
both = pytest.mark.parametrize("estimator", BOTH.values(), ids=BOTH)


class Uniform(nn.Module):
    """Knows nothing: every letter costs log 4."""

    def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
        return torch.zeros(*tokens.shape, VOCAB, dtype=torch.float64)


class Copies(nn.Module):
    """Guesses a letter from those seen within three steps: cheap, and harder on some sequences."""

    def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
        seen = nn.functional.one_hot(tokens, VOCAB).double() * (tokens < LETTERS)[..., None]
        logits = torch.zeros_like(seen)
        for step, weight in ((1, 1.0), (2, 0.6), (3, 0.4)):
            logits[:, step:] += weight * seen[:, :-step]
            logits[:, :-step] += weight * seen[:, step:]
        return logits


class Recording(nn.Module):
    """Keeps what it was asked, and knows nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, Tensor | None]] = []

    def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
        self.asked.append((tokens, sigma))
        return torch.zeros(*tokens.shape, VOCAB)


def denoiser(network: nn.Module, *, time_conditioning: bool = False) -> NetworkDenoiser:
    data_ids = range(LETTERS)
    process = Absorbing(LogLinear(), VOCAB, MASK, data_ids)
    return NetworkDenoiser(network, process, Subs(VOCAB, MASK, data_ids), time_conditioning)


def batches(tokens: Tensor, size: int = 100, weights: Tensor | None = None) -> list[TokenBatch]:
    if weights is None:
        weights = (tokens < LETTERS).float()
    return [
        TokenBatch(*pair) for pair in zip(tokens.split(size), weights.split(size), strict=True)
    ]


def uneven_sequences(n: int, length: int, seed: int = 0) -> Tensor:
    """Sequences of very different compositions and repetitiveness, and so of likelihoods."""
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        composition = random.dirichlet(np.full(LETTERS, random.choice([0.3, 1, 5])))
        letters = random.choice(LETTERS, size=length, p=composition)
        stays = random.random(length) < random.choice([0, 0.3, 0.8])
        starts = np.maximum.accumulate(np.where(stays, 0, np.arange(length)))
        rows.append(letters[starts])
    return torch.from_numpy(np.array(rows))


def sample(world: World, n: int) -> tuple[list[TokenBatch], np.ndarray]:
    """Sequences of the world and the exact -log p of each, in nats."""
    generator = torch.Generator().manual_seed(3)
    index = torch.multinomial(world.probabilities, n, replacement=True, generator=generator)
    nats = -world.probabilities[index].log().numpy()
    return batches(world.sequences[index]), nats


@pytest.mark.parametrize("schedule", [LogLinear(), Cosine()])
def test_the_nelbo_of_the_exact_denoiser_is_the_cross_entropy(
    world: World, schedule: LogLinear | Cosine
) -> None:
    data, nats = sample(world, 300)
    result = nelbo(world.denoiser(schedule), data, samples_per_sequence=3)
    truth = nats.sum() / (300 * LENGTH)
    # 3.9 standard errors: a false alarm in 10,000
    assert abs(result.nats_per_token - truth) < 3.9 * result.standard_error
    assert result.standard_error < 0.015


def test_each_sequence_has_its_own_likelihood(world: World) -> None:
    data, nats = sample(world, 10)
    result = nelbo(world.denoiser(LogLinear()), data, samples_per_sequence=100)
    # 100 evaluations of a sequence of 3 letters: errors of 0.02 to 0.36 nats a sequence
    np.testing.assert_allclose(result.sequence_nats, nats, atol=1.2)
    assert result.sequence_nats.sum() / 30 == pytest.approx(result.nats_per_token)


def test_the_published_estimator_agrees(world: World) -> None:
    data, nats = sample(world, 400)
    exact = nats.sum() / (400 * LENGTH)
    result = nelbo(
        world.denoiser(LogLinear()), data, estimator=published(), samples_per_sequence=15
    )
    # Besides 3.9 standard errors: t below 1e-3 and the 1e-3 of letters seen at t=1 are left out,
    # each worth at most log 3 a letter.
    assert abs(result.nats_per_token - exact) < 3.9 * result.standard_error + 2e-3 * math.log(3)
    assert result.standard_error < 0.15


def test_a_network_that_knows_nothing_costs_log_4_without_error() -> None:
    result = nelbo(denoiser(Uniform()), batches(uneven_sequences(20, 16)))
    assert result.nats_per_token == pytest.approx(math.log(4), abs=1e-12)
    assert result.perplexity == pytest.approx(4)
    assert result.bits_per_token == pytest.approx(2)
    assert result.standard_error == pytest.approx(0, abs=1e-12)
    assert result.standard_error_data == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("estimator", "samples"), [(AnyOrder(), 1), (Chain(), 1)])
def test_intervals_hold_the_long_run_mean_19_times_in_20(
    estimator: Estimator, samples: int
) -> None:
    # Of 25 intervals three or more miss in one of eight choices of the seeds, which are fixed.
    share, ratio = coverage(estimator, 40 // samples, 32, samples, replicates=25)
    assert share >= 0.88
    assert ratio == pytest.approx(1, abs=0.45)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("estimator", "n", "length", "samples"),
    [
        (AnyOrder(), 60, 48, 1),
        (AnyOrder(), 200, 32, 1),
        (AnyOrder(), 100, 32, 2),
        (Chain(), 60, 48, 1),
        # not 32: where t l is mostly below 1 the published estimator is too skewed (92 % there)
        (published(), 60, 48, 1),
        (published(), 60, 200, 1),
    ],
)
def test_intervals_hold_the_long_run_mean_19_times_in_20_over_many_draws(
    estimator: Estimator, n: int, length: int, samples: int
) -> None:
    # 500 replicates: standard error 1 %, a false alarm in 20 at nominal coverage, the seeds fixed
    share, ratio = coverage(estimator, n, length, samples, replicates=500)
    assert 0.93 <= share <= 0.975
    # Too large, if anything: of 60 evaluations the published estimator's curve is known roughly,
    # and what of it is not taken out counts as error though stratified levels balance it (1.25).
    assert 0.8 <= ratio <= 1.3


def coverage(
    estimator: Estimator, n: int, length: int, samples: int, replicates: int
) -> tuple[float, float]:
    """Share of intervals that hold the mean of all, and the standard error over the true one."""
    data = batches(uneven_sequences(n, length), size=n)
    model = denoiser(Copies())
    results = [
        nelbo(model, data, estimator=estimator, samples_per_sequence=samples, seed=seed)
        for seed in range(replicates)
    ]
    means = np.array([result.nats_per_token for result in results])
    errors = np.array([result.standard_error for result in results])
    truth = means.mean()
    held = [result.confidence_95[0] < truth < result.confidence_95[1] for result in results]
    return float(np.mean(held)), float(np.sqrt((errors**2).mean()) / means.std())


@pytest.mark.slow
def test_exactly_k_has_a_tenth_of_the_published_variance_or_less() -> None:
    # At equal evaluations. A ratio of two variances of 60 replicates is known to 26 %, and the
    # true one is about 20.
    data = batches(uneven_sequences(100, 64), size=100)
    cost = {}
    for name, estimator in BOTH.items():
        results = [
            nelbo(denoiser(Copies()), data, estimator=estimator, repeats=1, seed=seed)
            for seed in range(60)
        ]
        variance = np.var([result.nats_per_token for result in results])
        cost[name] = variance * results[0].network_evaluations
    assert cost["paper"] > 10 * cost["exactly_k"]


@pytest.mark.slow
@pytest.mark.parametrize(("half_width", "repeats"), [(0.016, 60), (0.012, 20), (0.01, 64)])
def test_an_interval_that_was_gone_on_to_holds_the_mean(half_width: float, repeats: int) -> None:
    # 200 replicates of 60 short sequences: standard error 1.6 %.
    data, model = batches(uneven_sequences(60, 32), size=60), denoiser(Copies())
    truth = nelbo(model, data, samples_per_sequence=400, seed=10_000).nats_per_token
    results = [
        nelbo(model, data, half_width=half_width, repeats=repeats, seed=seed)
        for seed in range(200)
    ]
    held = [result.confidence_95[0] <= truth <= result.confidence_95[1] for result in results]
    assert 0.92 <= np.mean(held) <= 0.99


def test_a_width_is_reached_and_not_overshot() -> None:
    data, model = batches(uneven_sequences(60, 32), size=60), denoiser(Copies())
    for width in (0.0056, 0.004):
        result = nelbo(model, data, half_width=width)
        low, high = result.confidence_95
        assert 0.7 * width < (high - low) / 2 <= width
    first = nelbo(model, data)
    assert nelbo(model, data, half_width=1.0).network_evaluations == first.network_evaluations
    enough = first.network_evaluations + 30
    stopped = nelbo(model, data, half_width=1e-6, max_evaluations=enough)
    assert enough <= stopped.network_evaluations <= enough + 30


@both
def test_batches_order_and_padding_change_nothing(estimator: Estimator) -> None:
    tokens = torch.cat([uneven_sequences(23, 12), uneven_sequences(2, 12)])  # two rows come twice
    model = denoiser(Copies())
    whole = nelbo(model, batches(tokens, 25), estimator=estimator, seed=5)
    order = torch.randperm(25, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(tokens, (4, 4), value=PAD)
    others = {
        "single": batches(tokens, 1),
        "sevens": batches(tokens, 7),
        "shuffled": batches(tokens[order], 4),
        "padded": batches(padded, 6),
        "ragged": [*batches(padded[:9], 4), *batches(tokens[9:], 5)],
    }
    if estimator.name == "paper":  # noise over all positions, padding included
        del others["padded"], others["ragged"]
    for name, data in others.items():
        result = nelbo(model, data, estimator=estimator, seed=5)
        assert result.nats_per_token == pytest.approx(whole.nats_per_token, rel=1e-12), name
        assert result.standard_error == pytest.approx(whole.standard_error, rel=1e-9), name
    shuffled = nelbo(model, others["shuffled"], estimator=estimator, seed=5)
    np.testing.assert_allclose(
        np.sort(shuffled.sequence_nats), np.sort(whole.sequence_nats), rtol=1e-12
    )


def test_seeds_draw_other_masks() -> None:
    data, model = batches(uneven_sequences(20, 16)), denoiser(Copies())
    assert nelbo(model, data, seed=1).nats_per_token == nelbo(model, data, seed=1).nats_per_token
    assert nelbo(model, data, seed=1).nats_per_token != nelbo(model, data, seed=2).nats_per_token


def test_sequences_of_n_contribute_nothing() -> None:
    tokens = uneven_sequences(12, 10)
    empty = torch.full((3, 10), N)
    model = denoiser(Copies())
    alone = nelbo(model, batches(tokens))
    mixed = nelbo(model, batches(torch.cat([empty[:1], tokens, empty[1:]]), 4))
    assert mixed.nats_per_token == pytest.approx(alone.nats_per_token, rel=1e-12)
    assert mixed.sequences == 12
    assert mixed.tokens == 120
    assert mixed.network_evaluations == alone.network_evaluations
    assert mixed.sequence_nats[0] == mixed.sequence_tokens[0] == 0
    assert mixed.standard_error_data == pytest.approx(alone.standard_error_data)


def test_only_data_tokens_are_masked_and_exactly_k_of_them() -> None:
    network = Recording()
    tokens = uneven_sequences(30, 8)
    tokens[:, ::3] = N
    nelbo(denoiser(network), batches(tokens), repeats=1)
    seen = torch.cat([asked for asked, _ in network.asked])
    assert not (seen[:, ::3] == MASK).any()
    # Of five data tokens, thirty strata above 1/16 mask 1 (4.4 of 30), 2, 3, 4 and 5 (6.4 each);
    # the thirty below 1/16 mask 1. Then one more of each.
    counts = (seen == MASK).sum(-1).bincount(minlength=6).numpy()
    assert counts[0] == 0 and counts.sum() == 62
    np.testing.assert_allclose(counts[1:], [35.4, 6.4, 6.4, 6.4, 6.4], atol=2.5)


@both
def test_a_network_that_is_told_the_time_is_told_the_share_that_is_masked(
    estimator: Estimator,
) -> None:
    network = Recording()
    model = denoiser(network, time_conditioning=True)
    nelbo(model, batches(uneven_sequences(40, 500)), estimator=estimator, repeats=1)
    for tokens, sigma in network.asked:
        assert sigma is not None
        share = (tokens == MASK).double().mean(-1)
        # exactly_k: alpha(1) is 1e-3 and not 0; paper: binomial, at most 0.0224 a standard error
        tolerance = 1.1e-3 if estimator.name == "exactly_k" else 5 * 0.0224
        torch.testing.assert_close(
            share, 1 - (-sigma[:, 0].double()).exp(), atol=tolerance, rtol=0
        )


def test_soft_masked_letters_count_once_unless_weighted() -> None:
    # Sequences of one letter, at 0, 1, 2 or 3: their only mask leaves nothing to chance.
    class Prefers(nn.Module):
        def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
            logits = torch.tensor([0.5, 0.25, 0.125, 0.125, 1.0, 1.0, 1.0]).log().double()
            return logits.expand(*tokens.shape, VOCAB)

    tokens = torch.tensor([[0], [1], [2], [3], [N]])
    weights = torch.tensor([[1.0], [0.1], [1.0], [0.0], [0.0]])
    model, data = denoiser(Prefers()), batches(tokens, weights=weights)
    once = nelbo(model, data)
    assert once.nats_per_token == pytest.approx((1 + 2 + 3) / 3 * math.log(2))
    assert once.tokens == 3
    weighted = nelbo(model, data, weighted=True)
    assert weighted.nats_per_token == pytest.approx(
        (1 + 0.1 * 2 + 3) / 2.1 * math.log(2), rel=1e-6
    )
    assert weighted.tokens == pytest.approx(2.1, rel=1e-6)
    assert once.standard_error == 0


def test_large_vocabularies_keep_their_tokens() -> None:
    class Knows(nn.Module):
        """Sure of the token 299 everywhere."""

        def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
            return nn.functional.one_hot(torch.full_like(tokens, 299), 300).double() * 50

    model = NetworkDenoiser(Knows(), Absorbing(LogLinear(), 300, 0), Subs(300, 0))
    data = [TokenBatch(torch.full((4, 5), 299), torch.ones(4, 5))]
    assert nelbo(model, data).nats_per_token == pytest.approx(0, abs=1e-12)


def test_the_model_is_given_back_in_its_modes_and_without_gradients() -> None:
    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
            self.scale = nn.Parameter(torch.zeros(()))
            self.seen: list[tuple[bool, bool, bool]] = []

        def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
            logits = self.scale * torch.ones(*tokens.shape, VOCAB)
            self.seen.append((self.training, self.drop.training, logits.requires_grad))
            return logits

    network = Partly()
    model = denoiser(network).train()
    network.frozen.eval()
    nelbo(model, batches(uneven_sequences(4, 5)), device="cpu")
    assert set(network.seen) == {(False, False, False)}
    assert (model.training, network.training, network.drop.training) == (True, True, True)
    assert not network.frozen.training
    assert network.scale.device == torch.device("cpu")


def test_the_model_is_given_back_when_the_evaluation_fails() -> None:
    class Fails(nn.Module):
        def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
            raise RuntimeError("out of memory")

    model = denoiser(Fails()).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        nelbo(model, batches(uneven_sequences(4, 5)))
    assert model.training
    assert model.network.training


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_model_comes_back_from_the_device() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
            assert tokens.is_cuda
            return self.scale * nn.functional.one_hot(tokens, VOCAB)

    model = denoiser(Scaled())
    result = nelbo(model, batches(uneven_sequences(8, 16)), device="cuda")
    assert result.nats_per_token == pytest.approx(math.log(4), rel=1e-6)
    assert next(model.parameters()).device == torch.device("cpu")


def test_the_intervals_bracket_and_agree() -> None:
    result = nelbo(denoiser(Copies()), batches(uneven_sequences(60, 32)), samples_per_sequence=2)
    low, high = result.confidence_95
    assert low < result.nats_per_token < high
    assert high - result.nats_per_token == pytest.approx(2.0 * result.standard_error, rel=0.02)
    assert result.perplexity_95 == pytest.approx((math.exp(low), math.exp(high)))
    assert result.perplexity == pytest.approx(math.exp(result.nats_per_token))


def test_the_error_of_the_data_is_by_cluster() -> None:
    tokens = uneven_sequences(30, 16)
    model = denoiser(Copies())

    def run(clusters: list[int] | None) -> Likelihood:
        return nelbo(model, batches(tokens), samples_per_sequence=2, clusters=clusters)

    by_cluster = run([i // 3 for i in range(30)])
    sums = by_cluster.sequence_nats.reshape(10, 3).sum(-1)
    residual = sums - by_cluster.nats_per_token * 48
    expected = math.sqrt(10 / 9 * (residual**2).sum()) / 480
    assert by_cluster.standard_error_data == pytest.approx(expected)
    assert run([4] * 30).standard_error_data is None
    assert run(None).standard_error_data == pytest.approx(run(list(range(30))).standard_error_data)
    with pytest.raises(UserError, match="2 cluster labels for 30 sequences"):
        run([0, 1])


def test_evaluations_are_counted_and_reported() -> None:
    reports: list[tuple[int, int]] = []
    data, model = batches(uneven_sequences(70, 6), 32), denoiser(Uniform())
    once = nelbo(model, data, progress=lambda done, total: reports.append((done, total)))
    # 70 sequences and 64 of them again, above 1/16 and below
    assert once.network_evaluations == 2 * (70 + 64)
    assert reports[0] == (32, 268) and reports[-1] == (268, 268) and len(reports) == 9
    assert nelbo(model, data, repeats=5).network_evaluations == 150
    assert nelbo(model, data, samples_per_sequence=3).network_evaluations == 420
    assert nelbo(model, data, estimator=published(), repeats=5).network_evaluations == 75
    many = nelbo(model, batches(uneven_sequences(300, 6)), repeats=1)
    assert many.network_evaluations == 300 + 100 + 1 + 1


def test_the_summary_is_what_evaluate_writes() -> None:
    summary = nelbo(denoiser(Copies()), batches(uneven_sequences(5, 6))).summary()
    assert list(summary) == [
        *("nats_per_token", "standard_error", "confidence_95", "standard_error_data"),
        *("perplexity", "perplexity_95", "bits_per_token", "tokens", "sequences"),
        *("network_evaluations", "estimator", "bound", "mask_rates"),
    ]
    assert (summary["tokens"], summary["estimator"], summary["bound"]) == (30, "exactly_k", True)
    assert isinstance(summary["confidence_95"], list)
    json.dumps(summary)


def test_what_does_not_count_is_said_by_token() -> None:
    tokens = uneven_sequences(4, 6)
    tokens[0, :2], tokens[1, :3] = N, PAD
    weights = (tokens < LETTERS).float()
    weights[2, 0] = 0
    result = nelbo(denoiser(Uniform()), batches(tokens, weights=weights))
    unscored = int(tokens[2, 0])
    assert result.left_out == {unscored: 1, N: 2, PAD: 3}
    assert result.tokens == 24 - 6


def test_batches_may_be_a_generator() -> None:
    def stream() -> Iterator[TokenBatch]:
        yield from batches(uneven_sequences(9, 6), 4)

    assert nelbo(denoiser(Uniform()), stream()).sequences == 9


@pytest.mark.parametrize("data", [[], batches(torch.full((2, 5), N))], ids=["nothing", "all N"])
def test_data_without_a_token_are_refused(data: list[TokenBatch]) -> None:
    with pytest.raises(UserError, match="hold no token to score"):
        nelbo(denoiser(Uniform()), data)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples_per_sequence": 0}, "samples_per_sequence=0 is below 1"),
        ({"repeats": 0}, "repeats=0 leaves no standard error"),
        ({"seed": -1}, "seed=-1 is negative"),
        ({"half_width": 0.0}, "half_width=0.0 is no width"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        nelbo(denoiser(Uniform()), batches(uneven_sequences(2, 4)), **arguments)  # type: ignore[arg-type]  # the point


def test_a_network_that_gives_nan_is_refused() -> None:
    class Diverged(nn.Module):
        def forward(self, tokens: Tensor, sigma: Tensor | None) -> Tensor:
            return torch.full((*tokens.shape, VOCAB), torch.nan)

    with pytest.raises(UserError, match="gives nan nats on sequence"):
        nelbo(denoiser(Diverged()), batches(uneven_sequences(2, 4)))
