"""Samples of averaged strands: a sequence and its reverse complement are equally likely."""

import pytest
import torch
from torch import Tensor

from genodiff.backbones import Backbone, StrandAveraged
from genodiff.diffusion import (
    Absorbing,
    Ancestral,
    FirstHitting,
    LogLinear,
    NetworkDenoiser,
    Sampler,
    Subs,
)
from tests.diffusion.test_sampling import assert_follows
from tests.toy import DATA_IDS, LENGTH, MASK, VOCAB_SIZE, TableNetwork, World, chain_log_p

COMPLEMENT = (2, 1, 0, MASK, 4)  # a with c, b with itself
PROCESS = Absorbing(LogLinear(), VOCAB_SIZE, MASK, DATA_IDS)
STEPS = 4
SAMPLES = 20_000


class Table(Backbone):
    """What is learnt from one strand: every context has logits of its own, which drift with the
    noise."""

    d_model = vocab_size = VOCAB_SIZE
    has_time_input = True

    def __init__(self) -> None:
        super().__init__()
        self.table = TableNetwork()

    def hidden(
        self, tokens: Tensor, sigma: Tensor | None = None, condition: Tensor | None = None
    ) -> Tensor:
        return self.table(tokens, sigma)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden


def denoiser_of(network: Backbone) -> NetworkDenoiser:
    return NetworkDenoiser(network, PROCESS, Subs(VOCAB_SIZE, MASK, DATA_IDS), True)


def law_of(network: Backbone, steps: int) -> Tensor:
    """(27,): of the reverse chain in as many steps."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return chain_log_p(denoiser_of(network), times).exp()


def turned(law: Tensor) -> Tensor:
    """The law of the reverse complements."""
    table = torch.tensor(COMPLEMENT[:3])
    return law.view(3, 3, 3)[table][:, table][:, :, table].permute(2, 1, 0).flatten()


def averaged() -> StrandAveraged:
    return StrandAveraged(Table(), COMPLEMENT, DATA_IDS)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_sequence_is_as_likely_as_its_reverse_complement(steps: int) -> None:
    law = law_of(averaged(), steps)
    assert float(law.sum()) == pytest.approx(1)
    torch.testing.assert_close(turned(law), law, rtol=1e-6, atol=1e-9)
    one_strand = law_of(Table(), steps)
    assert float((turned(one_strand) - one_strand).abs().sum()) / 2 > 0.1


@pytest.mark.parametrize("sampler", [Ancestral(STEPS), FirstHitting()], ids=repr)
def test_samples_of_averaged_strands_follow_that_law(sampler: Sampler, world: World) -> None:
    prior = PROCESS.prior((SAMPLES, LENGTH))
    generator = torch.Generator().manual_seed(0)
    samples = sampler(denoiser_of(averaged()), prior, generator=generator)
    law = law_of(averaged(), STEPS if isinstance(sampler, Ancestral) else 400)
    assert_follows(world.frequencies(samples), law)
