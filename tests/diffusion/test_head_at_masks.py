"""The head at masked positions alone: the same values and gradients as the head everywhere."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from genodiff.backbones import Backbone, Caduceus, DiMamba, Transformer
from genodiff.diffusion import (
    Absorbing,
    BlockDenoiser,
    BlockTimes,
    CausalModel,
    Centred,
    ContinuousNelbo,
    Counting,
    CrossEntropy,
    Denoiser,
    DenoisingObjective,
    DiscreteNelbo,
    ExactlyK,
    LearnedAbsorbing,
    LogLinear,
    Mean,
    NetworkDenoiser,
    NextToken,
    Objective,
    Parameterization,
    Process,
    Score,
    ScoreEntropy,
    Subs,
    Tweedie,
    Uniform,
    chunked_head,
    linear_head,
)

V, MASK, DATA = 11, 3, (0, 1, 2, 5, 6, 7, 8, 9)
PROCESS = Absorbing(LogLinear(), V, MASK, DATA)
PARAMETERIZATIONS = [Subs(V, MASK, DATA), Mean(V, MASK, DATA), Score(V, MASK, DATA)]
OBJECTIVES = [ContinuousNelbo(), CrossEntropy(), DiscreteNelbo(20), ScoreEntropy(), ExactlyK()]


class Headed(nn.Module):
    """Every position sees every other; counts the positions that the head is given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.output = nn.Embedding(V, 6), nn.Linear(6, V)
        self.heads: list[int] = []
        self.double()

    def hidden(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        x = self.embedding(tokens)
        return torch.tanh(x + x.cumsum(1) + (0 if sigma is None else sigma[..., None].double()))

    def head(self, hidden: Tensor) -> Tensor:
        self.heads.append(hidden.shape[:-1].numel())
        return self.output(hidden)

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(tokens, sigma))


class LinearlyHeaded(Headed):
    """The same network, which says that its head is linear."""

    def linear_head(self) -> tuple[Tensor, Tensor]:
        return self.output.weight, self.output.bias


class Headless(nn.Module):
    """The same function, which only knows how to give all its logits."""

    def __init__(self, network: Headed) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.network(tokens, sigma)


class Everywhere(Denoiser):
    """The same denoiser through its full methods alone, which is what the others are held to."""

    def __init__(self, model: NetworkDenoiser) -> None:
        super().__init__()
        self.model, self.process, self.time_conditioning = model, model.process, False

    def log_x0(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.model.log_x0(x_t, t, condition)

    def log_score(self, x_t: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.model.log_score(x_t, t, condition)


def models(parameterization: Parameterization) -> list[Denoiser]:
    """At masks, there by a linear head, by a network without a head, and everywhere; of the same
    weights."""
    network = Headed()
    told = True
    at_masks = NetworkDenoiser(network, PROCESS, parameterization, told)
    linear = NetworkDenoiser(LinearlyHeaded(), PROCESS, parameterization, told)
    headless = NetworkDenoiser(Headless(network), PROCESS, parameterization, told)
    return [at_masks, linear, headless, Everywhere(at_masks)]


def tokens(b: int = 5, l: int = 13) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.tensor(DATA)[torch.randint(len(DATA), (b, l), generator=generator)]


def loss_and_gradients(objective: Objective, model: Denoiser, x0: Tensor) -> list[Tensor]:
    model.zero_grad()
    nats = objective(model, x0, generator=torch.Generator().manual_seed(1))
    nats.sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    assert len(gradients) == 3
    return [nats.detach(), *gradients]


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("chunk", [1 << 24, 3 * V])
def test_values_and_gradients_are_those_of_the_full_computation(
    objective: Objective,
    parameterization: Parameterization,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked_head, "LOGITS_AT_ONCE", chunk)
    first, *others = [loss_and_gradients(objective, m, tokens()) for m in models(parameterization)]
    assert (first[0] > 0).any()
    for other in others:
        for a, b in zip(first, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: type(o).__name__)
def test_the_head_sees_masked_positions_alone(objective: Objective) -> None:
    network = Headed()
    model = NetworkDenoiser(network, PROCESS, PARAMETERIZATIONS[0])
    nats = objective(model, tokens(), generator=torch.Generator().manual_seed(1))
    assert network.heads == [int((nats != 0).sum())]
    assert 0 < network.heads[0] < nats.numel()


def test_chunks_bound_how_many_positions_the_head_sees_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunked_head, "LOGITS_AT_ONCE", 4 * V + 1)
    network = Headed()
    model = NetworkDenoiser(network, PROCESS, PARAMETERIZATIONS[0])
    nats = ExactlyK()(model, tokens(), generator=torch.Generator().manual_seed(1))
    masked = sum(network.heads)
    assert max(network.heads) == 4
    nats.sum().backward()
    assert max(network.heads) == 4
    assert sum(network.heads) == 2 * masked  # once more in the backward pass


class Large(nn.Module):
    """A head of 5,000 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.output = nn.Embedding(5000, 4), nn.Linear(4, 5000)

    def hidden(self, tokens: Tensor, sigma: None) -> Tensor:
        return self.embedding(tokens)

    def head(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


@pytest.mark.parametrize(
    "process",
    [
        Absorbing(LogLinear(), 5000, 0),
        Uniform(LogLinear(), 5000, range(1, 5000)),
        LearnedAbsorbing(LogLinear(), 5000, 0),
    ],
    ids=lambda process: type(process).__name__,
)
@pytest.mark.parametrize(
    "objective",
    [ScoreEntropy(ends=True), DiscreteNelbo(20, ends=True), Centred(ScoreEntropy())],
    ids=["rates", "chain", "centred"],
)
def test_of_a_large_vocabulary_no_more_than_a_chunk_is_kept(
    objective: DenoisingObjective, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked_head, "LOGITS_AT_ONCE", 8 * 5000)
    network = Large()
    model = NetworkDenoiser(network, process, Mean(5000, 0, range(1, 5000), subs_masking=True))
    x0 = torch.randint(1, 5000, (4, 64), generator=torch.Generator().manual_seed(0))
    kept: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda x: kept.append(x.numel()) or x, lambda x: x
    )
    with hooks:
        objective(model, x0, generator=torch.Generator().manual_seed(1)).sum().backward()
    assert network.output.weight.grad is not None and network.output.weight.grad.any()
    # The weight, once for every chunk, and not 4 x 64 rows of 5,000.
    assert max(kept) <= 5000 * 8


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every pass over the logits of a linear head, which are always too many."""
    monkeypatch.setattr(chunked_head, "LOGITS_AT_ONCE", 4 * V)
    seen: list[int] = []
    swept = linear_head._Rows.swept
    monkeypatch.setattr(
        linear_head._Rows, "swept", lambda *arguments: seen.append(1) or swept(*arguments)
    )
    return seen


@pytest.mark.parametrize(
    "objective",
    [ContinuousNelbo(), CrossEntropy(), ExactlyK(), ContinuousNelbo(BlockTimes(4))],
    ids=["nelbo", "low_var", "exactly_k", "blocks"],
)
@pytest.mark.parametrize("micro_batch", [6, 3])
def test_a_mean_over_tokens_takes_one_pass_over_the_logits(
    objective: DenoisingObjective, micro_batch: int, sweeps: list[int]
) -> None:
    """As `mean_nats` weighs them, padding 0, in whatever parts; and gradients add up."""
    network = LinearlyHeaded()
    model = NetworkDenoiser(network, PROCESS, PARAMETERIZATIONS[0])
    x0 = tokens(6, 24)
    x0[:, 20:] = 10  # padding
    drawn = objective.draw(model, x0, generator=torch.Generator().manual_seed(1))
    weights = (x0 != 10).double()

    def gradient(model: Denoiser, size: int) -> Tensor:
        model.zero_grad()
        for rows in torch.arange(6).split(size):
            of_rows = type(drawn)(*(part[rows] for part in drawn))
            nats = objective.nats(model, x0[rows], of_rows)
            ((nats * weights[rows]).sum() / weights.sum()).backward()
        assert network.output.weight.grad is not None
        return network.output.weight.grad.clone()

    actual = gradient(model, micro_batch)
    assert len(sweeps) == 6 / micro_batch
    expected = gradient(Everywhere(model), 6)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_a_causal_network_takes_one_pass_over_the_logits(sweeps: list[int]) -> None:
    causal = CausalModel(LinearlyHeaded(), V, MASK, DATA)
    NextToken()(causal, tokens(), generator=None).mean().backward()
    assert len(sweeps) == 1


def test_block_diffusion_takes_one_pass_over_the_logits(sweeps: list[int]) -> None:
    network = Transformer(V, 8, 1, 2, block_length=4, cond_dim=None)
    model = BlockDenoiser(network, PROCESS, PARAMETERIZATIONS[0])
    objective = ContinuousNelbo(BlockTimes(4))
    objective(model, tokens(), generator=torch.Generator().manual_seed(1)).mean().backward()
    assert len(sweeps) == 1


@pytest.mark.parametrize(
    "network",
    [
        Transformer(V, 8, 1, 2, cond_dim=None),
        Caduceus(V, 8, 1),
        Caduceus(V, 8, 1, tie_embeddings=False),
        DiMamba(V, 8, 1, cond_dim=4),
    ],
    ids=["transformer", "caduceus", "untied", "dimamba"],
)
def test_the_linear_head_of_a_backbone_is_its_head(network: Backbone) -> None:
    assert isinstance(network, chunked_head.WithLinearHead)
    head = network.linear_head()
    assert head is not None
    for parameter in network.parameters():
        nn.init.normal_(parameter)
    hidden = torch.randn(5, network.d_model)
    torch.testing.assert_close(network.head(hidden), F.linear(hidden, *head), rtol=0, atol=0)


def test_a_linear_head_of_another_vocabulary_is_refused() -> None:
    network = LinearlyHeaded()
    process = Absorbing(LogLinear(), V - 1, MASK, DATA)
    model = NetworkDenoiser(network, process, Subs(V - 1, MASK, DATA))
    with pytest.raises(ValueError, match=f"gives {V} logits a token, and vocab_size={V - 1}"):
        ContinuousNelbo()(model, tokens(), generator=torch.Generator().manual_seed(1))


def test_a_batch_without_masks_has_a_loss_of_zero_with_gradients() -> None:
    model = NetworkDenoiser(Headed(), PROCESS, PARAMETERIZATIONS[0])
    only_padding = torch.full((2, 4), 10)
    nats, *gradients = loss_and_gradients(ContinuousNelbo(), model, only_padding)
    assert bool((nats == 0).all())
    assert all(bool((gradient == 0).all()) for gradient in gradients)


@pytest.mark.parametrize("wrap", [lambda m: m, Counting, Tweedie], ids=["plain", "count", "score"])
def test_rows_are_those_of_the_full_tensors(wrap) -> None:
    model = wrap(NetworkDenoiser(Headed(), PROCESS, PARAMETERIZATIONS[2]))
    generator = torch.Generator().manual_seed(4)
    t = torch.rand(5, 1, dtype=torch.float64, generator=generator)
    x0, s = tokens(), t / 2
    x_t = PROCESS.corrupt(x0, t, generator=generator)
    where = torch.rand(x0.shape, generator=generator) < 0.5  # masked or not
    full = model.log_x0(x_t, t)
    close = torch.testing.assert_close
    close(model.log_x0_at(x_t, t, where), full[where])
    close(model.log_transition_at(x_t, t, s, where), model.log_transition(x_t, t, s)[where])
    likelihood = full.gather(-1, x0[..., None])[..., 0][where]
    close(model.log_likelihood_at(x0, x_t, t, where), likelihood)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=lambda p: type(p).__name__)
def test_the_likelihood_of_logits_is_read_off_their_distribution(
    parameterization: Parameterization,
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(27, V, dtype=torch.float64, generator=generator)
    x0 = torch.randint(V, (27,), generator=generator)
    x_t = torch.where(torch.rand(27, generator=generator) < 0.5, MASK, x0)
    x_t[0], x0[0] = 5, 6  # a clean token that is not x0
    t = torch.full((27,), 0.6, dtype=torch.float64)
    log_x0 = parameterization.log_x0(logits[None], x_t[None], t[None], PROCESS)[0]
    readout = chunked_head.Readout(logits, lambda logits: logits, V)
    actual = parameterization.log_likelihood(readout, x0, x_t, t, PROCESS)
    expected = log_x0.gather(-1, x0[:, None])[:, 0]
    torch.testing.assert_close(actual, expected)


def test_counting_counts_what_is_asked_at_positions() -> None:
    counting = Counting(NetworkDenoiser(Headed(), PROCESS, PARAMETERIZATIONS[0]))
    x0 = tokens()
    where = torch.ones_like(x0, dtype=torch.bool)
    t = torch.ones(5, 1)
    counting.log_x0_at(x0, t, where)
    counting.log_likelihood_at(x0, x0, t, where)
    counting.log_transition_at(x0, t, t / 2, where)
    assert (counting.calls, counting.row_evaluations) == (3, 15)
