"""`fit`: a training run from built parts, in one call."""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import lightning
import torch
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import nn
from torch.utils.data import DataLoader

from genodiff.errors import UserError
from genodiff.files import remove_leftovers, sole_writer
from genodiff.ranks import Ranks, is_first
from genodiff.training.callbacks import (
    Progress,
    SampleView,
    Score,
    StopOnSignal,
    Validation,
    peak_memory_bytes,
)
from genodiff.training.checkpoints import AtomicCheckpointIO, Checkpoints, read_checkpoint
from genodiff.training.generative import GenerativeModule
from genodiff.training.processes import Processes, cluster, processes_on
from genodiff.training.run_log import RunLog
from genodiff.training.sharding import ShardedStrategy
from genodiff.training.tensorboard import TensorBoard


@dataclass(frozen=True)
class Plan:
    """How long and how often. Steps are optimizer steps.

    Args:
        max_steps: length of the run.
        devices: processes on each machine, one a device; "auto" is as many as torchrun or SLURM
            has started, else all GPUs or, on a CPU, one.
        num_nodes: machines; "auto" is as many as there are.
        strategy: "ddp" copies the model to every device, "fsdp" cuts it into as many shares;
            "auto" is "ddp" where there are several devices.
        micro_batch: the most sequences that a device takes at once; None for its whole share of a
            batch. Numbers that say where a step is computed change its result by rounding only,
            but for dropout, see `GenerativeModule`.
        compile: see `compile_blocks`, which the module's network has been given to.
        gradient_clip: largest L2 norm of a step's gradient.
        ema_decay: of the averaged weights; at step n it is at most (1 + n) / (10 + n).
        log_every, validate_every, checkpoint_every, sample_every: steps between; 0 samples never.
        validate_sequences: validation windows scored each time, the same with the same masks.
        precision: "auto" is bf16-mixed on a GPU that has it and 32-true elsewhere.
    """

    max_steps: int
    devices: int | Literal["auto"] = 1
    num_nodes: int | Literal["auto"] = "auto"
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    micro_batch: int | None = None
    compile: bool = False
    gradient_clip: float = 1.0
    ema_decay: float = 0.9999
    log_every: int = 20
    validate_every: int = 200
    validate_sequences: int = 256
    checkpoint_every: int = 100
    sample_every: int = 0
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"

    def __post_init__(self) -> None:
        for name in (
            "max_steps",
            "devices",
            "num_nodes",
            "micro_batch",
            "log_every",
            "validate_every",
            "validate_sequences",
            "checkpoint_every",
        ):
            value = getattr(self, name)
            if value not in ("auto", None) and value < 1:
                raise UserError(f"trainer.{name}={value} must be at least 1.")
        if self.gradient_clip <= 0:
            raise UserError(f"trainer.gradient_clip={self.gradient_clip} must be positive.")
        if not 0 <= self.ema_decay < 1:
            raise UserError(f"trainer.ema_decay={self.ema_decay} must be in [0, 1).")
        if self.sample_every < 0:
            raise UserError(f"trainer.sample_every={self.sample_every} must not be negative.")

    def processes(self, device: torch.device) -> Processes:
        """The processes that the run has."""
        return processes_on(self.devices, self.num_nodes, device)


class Fitted(NamedTuple):
    """How a run ended."""

    steps: int
    tokens: int
    seconds: float
    tokens_per_second: float
    peak_memory_bytes: int
    """Of this process: allocated on its GPU, or resident."""
    interrupted: bool


def fit(
    module: GenerativeModule,
    train_loader: Callable[[int], DataLoader],
    plan: Plan,
    run: Path,
    *,
    score: Callable[[nn.Module, Ranks], Score],
    draw: Callable[[nn.Module], str],
    device: torch.device,
    resume: Path | None = None,
) -> Fitted:
    """Trains `module` for `plan.max_steps` steps, or from the checkpoint `resume` to there.

    Stopped after any step and resumed, a run on a CPU ends with the weights, averages and
    `metrics.csv` of one that was never stopped, bit for bit; resumed on another number of devices,
    to rounding.

    Args:
        train_loader: gives the endless loader of training batches from a batch number on; a batch
            is that of an optimizer step.
        run: folder, which exists, of `metrics.csv`, `checkpoints/`, `samples/` and the
            TensorBoard files.
        score: validation of a model by the ranks that share it; all of them ask for it, and what
            the first one is told counts.
        draw: a few samples of a model as FASTA or text.

    Raises DivergedError where the loss or the gradient is not finite, and UserError if another
    process trains in `run`.
    """
    with sole_writer(run) if is_first() else nullcontext():
        if is_first():
            for folder in (run, run / "samples"):
                remove_leftovers(folder)
        step = int(read_checkpoint(resume)["global_step"]) if resume else 0
        checkpoints = Checkpoints(run / "checkpoints", plan.checkpoint_every)
        run_log = RunLog(run / "metrics.csv", plan.log_every)
        progress = Progress(plan.log_every)
        # The order in which a step's end is dealt with: time it, log it, validate, sample, stop,
        # save.
        callbacks = [
            progress,
            run_log,
            Validation(score, plan.validate_every, run_log=run_log, checkpoints=checkpoints),
            SampleView(draw, plan.sample_every, run / "samples"),
            StopOnSignal(),
            checkpoints,
        ]
        trainer = _trainer(plan, run, device, callbacks)
        started = time.monotonic()
        try:
            trainer.fit(module, train_loader(step), ckpt_path=resume, weights_only=True)
        except SystemExit as exit:  # what Lightning makes of an interrupt
            raise KeyboardInterrupt from exit
        return Fitted(
            steps=trainer.global_step,
            tokens=run_log.tokens,
            seconds=time.monotonic() - started,
            tokens_per_second=progress.tokens_per_second,
            peak_memory_bytes=peak_memory_bytes(device),
            interrupted=trainer.global_step < plan.max_steps,
        )


def _trainer(
    plan: Plan, run: Path, device: torch.device, callbacks: list[lightning.Callback]
) -> lightning.Trainer:
    """Lightning's, with nothing of its own switched on."""
    there = plan.processes(device)
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=there.per_node,
        num_nodes=there.nodes,
        strategy=_strategy(plan, there),
        precision=_precision(plan.precision, device),
        max_steps=plan.max_steps,
        max_epochs=-1,
        callbacks=callbacks,
        logger=TensorBoard(run / "tensorboard"),
        plugins=[AtomicCheckpointIO(), *cluster()],
        log_every_n_steps=plan.log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )


def _strategy(plan: Plan, there: Processes) -> Strategy | Literal["auto"]:
    if plan.strategy == "auto" and there.total == 1:
        return "auto"
    return ShardedStrategy() if plan.strategy == "fsdp" else DDPStrategy()


def _precision(wanted: str, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    if wanted == "bf16-mixed":
        return "bf16-mixed"
    if wanted == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported():
        return "bf16-mixed"
    return "32-true"
