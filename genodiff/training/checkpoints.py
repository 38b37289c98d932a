"""The checkpoints of a run: always a whole one, and no disk that is full costs more than one.

`last.ckpt` resumes a run; `previous.ckpt` is the one before; `best.ckpt` holds the weights of the
best validation so far. Each is a sealed file (`sealed`) or, where the model is cut into shares, a
folder of them (`shares`), except for `best.ckpt`, which is always a file. Every reader takes both,
and the one replaces the other where a run goes on with another strategy.

**Two.** A new checkpoint is written to a temporary name and synchronised; then `last.ckpt` is
renamed `previous.ckpt`, and the new one `last.ckpt`. A kill before the first rename leaves the
old two (or `last.ckpt` alone: an old folder is deleted before another takes its name); one between
them leaves `previous.ckpt`, which is then the newest; and the next writer deletes what has a
temporary name.

**Resuming** takes the first whole one of the two. A damaged `last.ckpt` is set aside as
`damaged.ckpt`, so that it does not push the whole one out.

**A full disk** fails a checkpoint, not the run: the due one after it is the next attempt. Only the
last checkpoint, at the end or when asked to stop, has none: then `OutsideError`.
"""

import logging
import math
from pathlib import Path
from typing import Any, NamedTuple

import lightning
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from genodiff.errors import OutsideError, UserError
from genodiff.files import atomic_path, free_space, remove_leftovers, set_aside
from genodiff.ranks import Ranks
from genodiff.training.generative import GenerativeModule
from genodiff.training.sealed import UnreadableError, read_sealed, write_sealed
from genodiff.training.shares import read_shares, write_shares

log = logging.getLogger(__name__)

LAST, PREVIOUS, BEST, DAMAGED = "last.ckpt", "previous.ckpt", "best.ckpt", "damaged.ckpt"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes sealed files under a temporary name and renames, so that a kill leaves the old
    checkpoint or the new one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Ranks | None = None
    ) -> None:
        """Saves `checkpoint` at `path`; where that is `last.ckpt`, the one before is kept.

        `storage_options`: the ranks that all call this, where each has its `Share`s.

        Raises OSError where the disk refuses; what was there is then still there.
        """
        target = Path(path)
        keep = target.with_name(PREVIOUS) if target.name == LAST else None
        if storage_options is not None:
            write_shares(checkpoint, target, keep=keep, ranks=storage_options)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(target.parent)
        with atomic_path(target, keep=keep) as temporary:
            write_sealed(checkpoint, temporary)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """`read_checkpoint`."""
        return read_checkpoint(Path(path))


class Checkpoints(lightning.Callback):
    """Saves `last.ckpt` every `every` steps and at the end, `best.ckpt` when told of a better
    score.

    Comes last among the callbacks: what the others did at this step is then inside the checkpoint,
    and a resumed run neither repeats nor skips it.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.best = math.inf

    def consider(self, trainer: Trainer, nats_per_token: float) -> None:
        """Keeps the present weights as the best if `nats_per_token` is the lowest so far."""
        if nats_per_token >= self.best:
            return
        failure = self._save(trainer, BEST, weights_only=True)
        if failure is None:
            self.best = nats_per_token
        else:
            log.warning(
                "step %d: these are the best weights so far, but %s. Training goes on.",
                trainer.global_step,
                failure,
            )

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves at the due steps, at the last one, and when the run is asked to stop.

        Raises OutsideError if the last of them cannot be written.
        """
        step = trainer.global_step
        ends = step == pl_module.max_steps or trainer.should_stop
        if not ends and step % self.every:
            return
        failure = self._save(trainer, LAST)
        if failure is None:
            return
        if ends:
            raise OutsideError(f"step {step}: {failure}.")
        log.warning(
            "step %d: %s. Training goes on; the next attempt is at step %d.",
            step,
            failure,
            min(step + self.every, pl_module.max_steps),
        )

    def state_dict(self) -> dict[str, float]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the best score so far."""
        self.best = state_dict["best"]

    def _save(self, trainer: Trainer, name: str, *, weights_only: bool = False) -> str | None:
        """Saves the file `name`. Returns on every rank what kept the writing one from it."""
        failure = None
        try:
            trainer.save_checkpoint(self.folder / name, weights_only=weights_only)
        except OSError as error:
            trainer.strategy.barrier()  # where the other ranks wait for a save to end
            reason = error.strerror or str(error)
            failure = f"{name} cannot be written ({reason}; {free_space(self.folder)})"
        return trainer.strategy.broadcast(failure)


class Resumable(NamedTuple):
    """A checkpoint to go on from."""

    path: Path
    step: int


def newest_checkpoint(folder: Path) -> Resumable | None:
    """The newest whole checkpoint in `folder` to go on from; None where there was none yet.

    A damaged `last.ckpt` is renamed `damaged.ckpt`, and the log says so. Raises UserError if
    there are damaged ones only.
    """
    damaged: list[str] = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            found = Resumable(path, int(_contents(path)["global_step"]))
        except UnreadableError as error:
            damaged.append(f"{path.name} ({error})")
            continue
        if damaged:
            set_aside(folder / LAST, folder / DAMAGED)
            log.warning(
                "%s cannot be read: going on from step %d of %s. The damaged one is %s now.",
                f"{folder}/{damaged[0]}",
                found.step,
                PREVIOUS,
                DAMAGED,
            )
        return found
    if damaged:
        best = folder / BEST
        with_best = f" with init={best}, the best weights without their optimizer" * best.exists()
        raise UserError(
            f"no checkpoint in {folder} can be read: {', '.join(damaged)}; start a new run"
            f"{with_best}, or copy them here again."
        )
    return None


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a genodiff `.ckpt`, on the CPU.

    Raises UserError if it is missing, damaged, holds more than tensors and plain values, or was
    not written by genodiff.
    """
    if not path.exists():
        raise UserError(f"checkpoint={path} does not exist; give a run folder or a .ckpt file.")
    try:
        return _contents(path)
    except UnreadableError as error:
        names = (name for name in (BEST, LAST, PREVIOUS) if name != path.name)
        others = ", ".join(name for name in names if path.with_name(name).exists())
        beside = f" Beside it: {others}." if others else ""
        raise UserError(
            f"checkpoint={path} cannot be read ({error}); it is damaged or not a genodiff "
            f"checkpoint.{beside} Published weights are converted first: genodiff convert "
            f"source={path} out=DIR."
        ) from error


def _contents(path: Path) -> dict[str, Any]:
    """The contents of a whole checkpoint. Raises UnreadableError for anything else."""
    contents = read_shares(path) if path.is_dir() else read_sealed(path)
    if not isinstance(contents, dict) or "genodiff" not in contents:
        raise UnreadableError("it was not written by genodiff train")
    return contents
