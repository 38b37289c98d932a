"""Short runs of every kind of objective on a genome with N and soft-masked bases.

As a program it is one process of several, with the environment that a launcher gives it; its
argument is a JSON list of keyword arguments of `train`.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader

from genodiff.batch import TokenBatch
from genodiff.config import config_dir
from genodiff.ranks import Ranks
from genodiff.tasks.train import assemble
from genodiff.training import Fitted, Score, fit
from genodiff.training.sharding import ShardedStrategy, whole
from tests.data.toys import random_sequence, write_bed, write_fasta

BATCH, STEPS = 8, 6
OBJECTIVES = {
    "mdlm": (),
    "sedd": (),
    "genmd4": (),
    "plaid": (),
    "mlm": (),
    "next_token": ("backbone=mamba",),
    "block_diffusion": ("backbone.block_length=8",),
}


def write_genome(folder: Path) -> tuple[str, str]:
    """`data.fasta=` and `data.bed=` of a genome a fifth of which is N, in stretches."""
    rng = np.random.default_rng(0)
    stretches = [random_sequence(50, rng, letters) for letters in ["N", *["ACGTacgt"] * 4] * 16]
    fasta = write_fasta(folder / "toy.fa", {"chr1": "".join(stretches)})
    rows = [("chr1", 0, 3200, "train"), ("chr1", 3200, 4000, "valid")]
    return f"data.fasta={fasta}", f"data.bed={write_bed(folder / 'toy.bed', rows)}"


def train(
    run: str,
    objective: str,
    genome: list[str],
    *,
    devices: int = 1,
    micro_batch: int | None = None,
    stop_at: int | None = None,
    poison_at: int | None = None,
    full_at: int | None = None,
    kill_at: int | None = None,
    gather: bool = False,
    strategy: str = "auto",
    backbone: tuple[str, ...] = ("backbone.d_model=16", "backbone.n_layers=1"),
) -> Fitted:
    """Trains in the folder `run`, or goes on there.

    `stop_at`: a batch whose fetching sends SIGTERM to this process, if it is the last of them.
    `poison_at`: a batch with a weight that is not a number in its last row.
    `full_at`: a batch from which on, for two batches, the last process' files may not grow.
    `kill_at`: a batch from which on the last process is killed where it synchronises a file.
    `gather`: beside a checkpoint `path` that shares are saved in, `path.gathered` is written.
    """
    folder = Path(run)
    words = [
        *(*genome, f"objective={objective}", *OBJECTIVES[objective], "data.length=40"),
        *(f"data.batch_size={BATCH}", "data.soft_mask_weight=0.3", "data.jitter=10"),
        *(f"+data.cache_dir={folder.parent}", *backbone),
        *(f"trainer.max_steps={STEPS}", "trainer.log_every=1", "trainer.validate_every=3"),
        *(f"trainer.devices={devices}", f"trainer.strategy={strategy}"),
        # With the usual eps, Adam makes a step of its own size from gradients that are rounding.
        *("+optimizer.eps=0.01", "trainer.checkpoint_every=2"),
    ]
    if micro_batch is not None:
        words.append(f"trainer.micro_batch={micro_batch}")
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", words), resolve=True)
    parts = assemble(config)
    last = folder / "checkpoints" / "last.ckpt"
    folder.mkdir(exist_ok=True)

    held_out = next(iter(parts.data.eval_loader("valid"))).tokens

    @torch.no_grad()
    def score(model: torch.nn.Module, ranks: Ranks) -> Score:
        model.eval()
        generator = torch.Generator().manual_seed(0)
        nats = parts.module.objective(model, held_out, generator=generator)
        model.train()
        return Score(float(nats.mean()), 0.01)

    def loader(first: int) -> DataLoader:
        batches: Any = Batches(
            parts.data.train_loader(first), first, stop_at, poison_at, full_at, kill_at
        )
        return batches

    if gather:
        ShardedStrategy.save_checkpoint = save_and_gather
    return fit(
        parts.module,
        loader,
        parts.plan,
        folder,
        score=score,
        draw=lambda model: "",
        device=torch.device("cpu"),
        resume=last if last.exists() else None,
    )


class Batches:
    """The batches of a loader, with what is to happen at some of them."""

    def __init__(
        self,
        loader: DataLoader,
        first: int,
        stop_at: int | None,
        poison_at: int | None,
        full_at: int | None,
        kill_at: int | None,
    ) -> None:
        self.loader, self.first = loader, first
        self.stop_at, self.poison_at = stop_at, poison_at
        self.full_at, self.kill_at = full_at, kill_at

    def __iter__(self) -> Iterator[TokenBatch]:
        is_last = os.environ.get("LOCAL_RANK", "0") == str(
            int(os.environ.get("WORLD_SIZE", 1)) - 1
        )
        for number, batch in enumerate(self.loader, self.first):
            if is_last:
                self._let_happen(number)
            if number == self.poison_at:
                batch.weights[-1, 0] = torch.nan
            yield batch

    def _let_happen(self, number: int) -> None:
        if number == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if number == self.kill_at:
            os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
        if self.full_at is not None and number in (self.full_at, self.full_at + 2):
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            limit = 1000 if number == self.full_at else hard
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))


def save_and_gather(
    self: ShardedStrategy, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
) -> None:
    """Saves, and has the first process write the same with whole tensors."""
    save(self, checkpoint, filepath)
    gathered = tree_map(lambda x: whole(x) if isinstance(x, torch.Tensor) else x, checkpoint)
    if self.is_global_zero:
        torch.save(gathered, f"{filepath}.gathered")


save = ShardedStrategy.save_checkpoint


def train_on_several(jobs: list[dict[str, Any]], processes: int = 2) -> list[int]:
    """Runs `train` for each of the jobs, each on all the processes. Returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(processes)}
    command = [sys.executable, "-m", "tests.training.worlds", json.dumps(jobs)]
    started = [
        subprocess.Popen(
            command,
            env={**os.environ, **world, "NODE_RANK": "0", "LOCAL_RANK": str(rank)},
            cwd=Path(__file__).parents[2],
        )
        for rank in range(processes)
    ]
    return [process.wait() for process in started]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for job in json.loads(sys.argv[1]):
        train(**job)
