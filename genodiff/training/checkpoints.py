"""Checkpoints that are whole or absent, and hold nothing but tensors and plain values.

`last.ckpt` resumes a run; `best.ckpt` holds the weights of the best validation so far.
"""

import math
import pickle
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer
from lightning.fabric.plugins import TorchCheckpointIO

from genodiff.errors import UserError
from genodiff.files import atomic_path
from genodiff.training.generative import GenerativeModule


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary name and renames, so that a kill leaves the old file or the new
    one."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Saves `checkpoint` at `path`."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(target) as temporary:
            torch.save(checkpoint, temporary)


class Checkpoints(lightning.Callback):
    """Saves `last.ckpt` every `every` steps and at the end, `best.ckpt` when told of a better
    score.

    Comes last among the callbacks: what the others did at this step is then inside the checkpoint,
    and a resumed run neither repeats nor skips it.
    """

    def __init__(self, folder: Path, every: int) -> None:
        self.folder, self.every = folder, every
        self.best = math.inf
        self.saved_step = -1

    def consider(self, trainer: Trainer, nats_per_token: float) -> None:
        """Keeps the present weights as the best if `nats_per_token` is the lowest so far."""
        if nats_per_token < self.best:
            self.best = nats_per_token
            trainer.save_checkpoint(self.folder / "best.ckpt", weights_only=True)

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Saves at the due steps, at the last one, and when the run is asked to stop."""
        if not pl_module.stepped:
            return
        step = trainer.global_step
        if step % self.every == 0 or step == pl_module.max_steps or trainer.should_stop:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            self.saved_step = step

    def state_dict(self) -> dict[str, float]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the best score so far."""
        self.best = state_dict["best"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a genodiff `.ckpt`, on the CPU.

    Raises UserError if the file is missing, damaged, holds more than tensors and plain values, or
    was not written by genodiff.
    """
    if not path.is_file():
        raise UserError(f"checkpoint={path} does not exist; give a run folder or a .ckpt file.")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        EOFError,
        OSError,
        ValueError,
        KeyError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).strip().split("\n")[0][:120]
        raise UserError(
            f"checkpoint={path} cannot be read ({reason}); it is damaged or not a genodiff "
            f"checkpoint. Published weights are converted first: genodiff convert source={path} "
            "out=DIR."
        ) from error
    if not isinstance(contents, dict) or "genodiff" not in contents:
        raise UserError(
            f"checkpoint={path} was not written by genodiff train; give a run folder, its .ckpt, "
            f"or a model folder. Published weights are converted first: genodiff convert "
            f"source={path} out=DIR."
        )
    return contents
