"""A training run small enough for a test: a linear network, random tokens, a few steps."""

import os
import signal
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from genodiff.batch import TokenBatch
from genodiff.diffusion import (
    Absorbing,
    AntitheticTimes,
    ContinuousNelbo,
    LogLinear,
    NetworkDenoiser,
    Subs,
)
from genodiff.ranks import ALONE, Ranks
from genodiff.training import (
    AdamWCosine,
    Fitted,
    GenerativeModule,
    Plan,
    Score,
    fit,
    newest_checkpoint,
)

VOCABULARY, MASK, LENGTH, BATCH = 6, 5, 12, 4


class Network(nn.Module):
    """Embedding, dropout, linear head: enough for weight decay, EMA and random state to matter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.dropout = nn.Dropout(0.2)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, VOCABULARY)

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        hidden = self.embedding(tokens)
        return self.head(self.norm(self.dropout(hidden + hidden.mean(1, keepdim=True))))


class Batches(Dataset):
    """Batch i is a function of i; fetching batch `kill_at` sends this process `signum`."""

    def __init__(self, first: int, kill_at: int | None, signum: int, weight: float) -> None:
        self.first, self.kill_at, self.signum, self.weight = first, kill_at, signum, weight

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: int) -> TokenBatch:
        number = self.first + index
        if number == self.kill_at:
            os.kill(os.getpid(), self.signum)
        generator = torch.Generator().manual_seed(number)
        tokens = torch.randint(0, MASK, (BATCH, LENGTH), generator=generator)
        return TokenBatch(tokens, torch.full((BATCH, LENGTH), self.weight))


def score(model: nn.Module, ranks: Ranks = ALONE) -> Score:
    """A validation that costs nothing and depends on the weights."""
    total = sum(float(p.detach().double().abs().mean()) for p in model.parameters())
    return Score(total, 0.01)


def module(
    max_steps: int, *, micro_batch: int | None = None, lr: float = 0.05
) -> GenerativeModule:
    torch.manual_seed(0)
    process = Absorbing(LogLinear(), VOCABULARY, MASK)
    model = NetworkDenoiser(Network(), process, Subs(VOCABULARY, MASK))
    return GenerativeModule(
        model,
        ContinuousNelbo(AntitheticTimes()),
        optimizer=AdamWCosine(lr=lr),
        max_steps=max_steps,
        micro_batch=micro_batch,
        ema_decay=0.9,
        seed=7,
        description={"model": {}},
    )


def run(
    folder: Path,
    *,
    max_steps: int = 12,
    micro_batch: int | None = None,
    kill_at: int | None = None,
    signum: int = signal.SIGTERM,
    resume: bool = False,
    weight: float = 1.0,
    checkpoint_every: int = 5,
    lr: float = 0.05,
) -> Fitted:
    """Trains in `folder`; `resume` goes on from its last checkpoint."""
    plan = Plan(
        max_steps=max_steps,
        log_every=3,
        validate_every=4,
        checkpoint_every=checkpoint_every,
        sample_every=6,
    )
    folder.mkdir(exist_ok=True)
    checkpoints = folder / "checkpoints"
    return fit(
        module(max_steps, micro_batch=micro_batch, lr=lr),
        lambda first: DataLoader(Batches(first, kill_at, signum, weight), batch_size=None),
        plan,
        folder,
        score=score,
        draw=lambda model: f">a\n{score(model).nats_per_token}\n",
        device=torch.device("cpu"),
        resume=newest.path if resume and (newest := newest_checkpoint(checkpoints)) else None,
    )
