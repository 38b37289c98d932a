"""What happens at the end of an optimizer step besides the step: validate, show samples, stop,
report progress."""

import logging
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import lightning
import torch
from lightning import Trainer
from torch import nn
from tqdm import tqdm

from genodiff.files import write_text
from genodiff.ranks import ALONE, Ranks
from genodiff.training.checkpoints import Checkpoints
from genodiff.training.generative import GenerativeModule
from genodiff.training.run_log import RunLog
from genodiff.training.sharding import ShardedStrategy

log = logging.getLogger(__name__)


class Score(NamedTuple):
    """What a validation gives; of classifiers the accuracy too, which then says which weights are
    the best."""

    nats_per_token: float
    standard_error: float
    accuracy: float | None = None

    @property
    def criterion(self) -> float:
        """Lower is better."""
        return self.nats_per_token if self.accuracy is None else -self.accuracy


class Validation(lightning.Callback):
    """Scores the averaged weights every `every` steps and at the end, with the same masks each
    time. Processes share the work, but for those that each hold a share of the model: all of them
    have to call it equally often.

    Run here and not by Lightning's validation loop, so that "step, validation, checkpoint" is one
    unit: a checkpoint is written after the validation of its step, never between.
    """

    def __init__(
        self,
        score: Callable[[nn.Module, Ranks], Score],
        every: int,
        *,
        run_log: RunLog,
        checkpoints: Checkpoints,
    ) -> None:
        self.score, self.every, self.run_log, self.checkpoints = score, every, run_log, checkpoints

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Validates when due."""
        if not _due(trainer, pl_module, self.every):
            return
        shared = not isinstance(trainer.strategy, ShardedStrategy)
        ranks = Ranks(trainer.global_rank, trainer.world_size) if shared else ALONE
        with pl_module.averaged() as model:
            result = self.score(model, ranks)
        # One opinion: the best weights are saved by all processes together.
        found = trainer.strategy.broadcast(result)
        columns = {"standard_error": found.standard_error}
        if found.accuracy is not None:
            columns["accuracy"] = found.accuracy
        self.run_log.write(trainer, "valid", found.nats_per_token, **columns)
        self.checkpoints.consider(trainer, found.criterion)


class SampleView(lightning.Callback):
    """Writes a few samples of the averaged weights every `every` steps: an early look at what is
    learnt."""

    def __init__(self, draw: Callable[[nn.Module], str], every: int, folder: Path) -> None:
        self.draw, self.every, self.folder = draw, every, folder

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Draws when due."""
        if not _due(trainer, pl_module, self.every):
            return
        with pl_module.averaged() as model:
            text = self.draw(model)
        if not trainer.is_global_zero:
            return
        path = self.folder / f"step_{trainer.global_step:08d}.fa"
        try:
            self.folder.mkdir(exist_ok=True)
            write_text(path, text)
        except OSError as error:
            log.warning("%s cannot be written (%s); training goes on.", path, error.strerror)


class StopOnSignal(lightning.Callback):
    """SIGTERM and Ctrl-C stop the run, on all ranks, at the end of the present step, with a
    checkpoint written.

    A second signal stops at once; the last checkpoint then stands. Signals within a second are
    one: schedulers and torchrun pass on what the terminal has sent to every process already.
    """

    def __init__(self) -> None:
        self._received: float | None = None
        self._previous: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        """Takes the signals over (Lightning has set its own handlers by now)."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Asks for the stop; `Checkpoints` comes after and saves."""
        received = self._received is not None
        if trainer.strategy.reduce_boolean_decision(received, all=False):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        """Gives the signals back to Lightning, which gives back those that it took itself."""
        self._give_back()

    def on_exception(
        self, trainer: Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Gives the signals back."""
        self._give_back()

    def _give_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._received is not None:
            if now - self._received < 1.0:
                return
            raise KeyboardInterrupt
        self._received = now
        log.info("%s: saving a checkpoint, then stopping.", signal.Signals(number).name)


class Progress(lightning.Callback):
    """A bar on a terminal, otherwise a line every `seconds`; both to stderr, with tokens/s and
    time left. Every `every` steps, tokens/s and peak memory go to the loggers.

    Tokens are those of all processes, memory is that of the first.
    """

    def __init__(self, every: int, seconds: float = 30.0) -> None:
        self.every, self.seconds = every, seconds
        self.tokens_per_second = 0.0
        self._bar: tqdm | None = None
        self._tokens = 0
        self._busy = 0.0
        self._loss = 0.0
        self._first_step = 0
        self._step_began = self._last_line = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: GenerativeModule) -> None:  # type: ignore[override]
        """Starts the clock."""
        self._first_step = trainer.global_step
        self._last_line = time.monotonic()
        if sys.stderr.isatty() and trainer.is_global_zero:
            self._bar = tqdm(
                total=pl_module.max_steps,
                initial=trainer.global_step,
                unit="step",
                dynamic_ncols=True,
            )

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Validation, sampling and saving are not counted in tokens/s."""
        self._step_began = time.monotonic()

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Shows where the run stands. The first of the callbacks, so that it times the step
        alone."""
        now = time.monotonic()
        self._busy += now - self._step_began
        self._tokens += batch.tokens.numel()
        self.tokens_per_second = self._tokens / self._busy
        if not trainer.is_global_zero:
            return
        if trainer.global_step % self.every == 0:
            numbers = {
                "speed/tokens_per_second": self.tokens_per_second,
                "speed/peak_memory_gib": peak_memory_bytes(pl_module.device) / 2**30,
            }
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=trainer.global_step)
        loss, share = float(outputs["loss"]), 0.98
        self._loss = loss if self._loss == 0 else share * self._loss + (1 - share) * loss
        if self._bar is not None:
            self._bar.update(1)
            self._bar.set_postfix_str(
                f"{self._loss:.4f} nats/token, {self.tokens_per_second:,.0f} tokens/s",
                refresh=False,
            )
        elif now - self._last_line >= self.seconds or trainer.global_step == pl_module.max_steps:
            self._last_line = now
            self._line(trainer.global_step, pl_module.max_steps)

    def on_train_end(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, step: int, max_steps: int) -> None:
        done = step - self._first_step
        left = self._busy / max(1, done) * (max_steps - step)
        log.info(
            "step %d/%d  %.4f nats/token  %s tokens/s  %d:%02d left",
            step,
            max_steps,
            self._loss,
            f"{self.tokens_per_second:,.0f}",
            *divmod(round(left), 60),
        )


def peak_memory_bytes(device: torch.device) -> int:
    """The most that this process has had allocated on a GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # KiB on Linux


def _due(trainer: Trainer, module: GenerativeModule, every: int) -> bool:
    step = trainer.global_step
    return every > 0 and (step % every == 0 or step == module.max_steps)
