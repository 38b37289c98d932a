"""The log of a run: `metrics.csv`, exact under resume, and whatever Lightning loggers are
attached.

What depends on the clock (tokens/s) is not in the file, so that an interrupted and resumed run
leaves the same bytes as an uninterrupted one.
"""

import csv
import io
import logging
import math
from pathlib import Path
from typing import Any

import lightning
from lightning import Trainer

from genodiff.errors import OutsideError
from genodiff.files import append_bytes, atomic_path
from genodiff.training.generative import GenerativeModule

log = logging.getLogger(__name__)

COLUMNS: tuple[str, ...] = (
    "step",
    "split",
    "tokens",
    "nats_per_token",
    "standard_error",
    "perplexity",
    "accuracy",
    "learning_rate",
    "gradient_norm",
)


class RunLog(lightning.Callback):
    """Writes a `train` row every `every` steps: the mean over the steps since the row before, and
    the rate and the gradient's norm of its own step.

    Rows that a full disk does not take wait for the next one, also in checkpoints.

    Args:
        path: the CSV file.
        every: optimizer steps between rows.
    """

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every
        self.tokens = 0
        self._nats = self._weight = 0.0
        self._waiting = ""

    def on_train_start(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the file; of a run that is gone on with, keeps the rows up to its checkpoint."""
        if trainer.is_global_zero:
            _truncate(self.path, trainer.global_step)

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Adds the step, and writes the row if it is due."""
        self._nats += float(outputs["nats"])
        self._weight += float(outputs["weight"])
        self.tokens += batch.tokens.numel()
        step = trainer.global_step
        if step % self.every and step != pl_module.max_steps:
            return
        self.write(
            trainer,
            "train",
            # Weight 0 (nothing but N since the last row) has no mean.
            self._nats / self._weight if self._weight else math.nan,
            learning_rate=pl_module.learning_rate,
            gradient_norm=float(pl_module.gradient_norm),
        )
        self._nats = self._weight = 0.0

    def write(self, trainer: Trainer, split: str, nats: float, **columns: float) -> None:
        """Appends a row to the file and sends it to the attached loggers."""
        row: dict[str, Any] = {
            "step": trainer.global_step,
            "split": split,
            "tokens": self.tokens,
            "nats_per_token": nats,
            "perplexity": math.exp(nats) if nats < 700 else math.inf,  # far off, not yet lost
            **columns,
        }
        if not trainer.is_global_zero:
            return
        line = io.StringIO(newline="")
        csv.DictWriter(line, COLUMNS).writerow({key: _digits(row[key]) for key in row})
        self._waiting += line.getvalue()
        self._append(trainer)
        numbers = {
            f"{split}/{key}": row[key] for key in ("nats_per_token", "perplexity", *columns)
        }
        for logger in trainer.loggers:
            logger.log_metrics({**numbers, "tokens": self.tokens}, step=trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: lightning.LightningModule) -> None:
        """The last attempt for rows that wait. Raises OutsideError if it fails."""
        if not self._waiting or not trainer.is_global_zero:
            return
        self._append(trainer)
        if self._waiting:
            raise OutsideError(f"{self.path} lacks its last rows, which the disk did not take.")

    def state_dict(self) -> dict[str, Any]:
        """The unfinished mean, the tokens seen, the rows that wait."""
        return {
            "nats": self._nats,
            "weight": self._weight,
            "tokens": self.tokens,
            "waiting": self._waiting,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        self._nats, self._weight = state_dict["nats"], state_dict["weight"]
        self.tokens = state_dict["tokens"]
        waiting = state_dict.get("waiting", "")
        # They may have been written after the checkpoint was.
        written = self.path.read_bytes() if self.path.exists() else b""
        self._waiting = "" if waiting.encode() in written else waiting

    def _append(self, trainer: Trainer) -> None:
        try:
            append_bytes(self.path, self._waiting.encode())
            self._waiting = ""
        except OSError as error:
            if self._waiting.count("\n") == 1:  # once, for as long as it lasts
                log.warning(
                    "step %d: %s takes no row (%s); training goes on, and the rows wait.",
                    trainer.global_step,
                    self.path,
                    error.strerror,
                )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.csv`: numbers as floats, empty cells as None, `split` as text."""
    with path.open(newline="") as file:
        return [
            {
                key: value if key == "split" else float(value) if value else None
                for key, value in row.items()
            }
            for row in csv.DictReader(file)
        ]


def _truncate(path: Path, step: int) -> None:
    """Keeps the header and the rows up to `step`; starts the file if there is none."""
    kept: list[dict[str, str]] = []
    if step and path.exists():
        with path.open(newline="") as file:
            # A row cut off by a kill has fewer cells; it lies beyond `step` in any case.
            kept = [
                row
                for row in csv.DictReader(file)
                if None not in row.values() and int(row["step"]) <= step
            ]
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)


def _digits(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
