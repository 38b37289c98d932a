"""The log of a run: `metrics.csv`, exact under resume, and whatever Lightning loggers are
attached.

What depends on the clock (tokens/s) is not in the file, so that an interrupted and resumed run
leaves the same bytes as an uninterrupted one.
"""

import csv
import math
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Trainer

from genodiff.files import atomic_path
from genodiff.training.generative import GenerativeModule

COLUMNS: tuple[str, ...] = (
    "step",
    "split",
    "tokens",
    "nats_per_token",
    "standard_error",
    "perplexity",
    "learning_rate",
    "gradient_norm",
)


class DivergedError(RuntimeError):
    """The training loss is no longer a finite number."""


class RunLog(lightning.Callback):
    """Writes a `train` row every `every` steps: the mean over the steps since the row before.

    Args:
        path: the CSV file.
        every: optimizer steps between rows.
        resume_step: None starts a new file; a step keeps the rows up to it and goes on.
    """

    def __init__(self, path: Path, every: int, resume_step: int | None) -> None:
        self.path, self.every = path, every
        self.tokens = 0
        # Sums stay on the device of the loss until a row is due: no wait for the GPU at every
        # step.
        self._nats = self._weight = torch.zeros((), dtype=torch.float64)
        _truncate(path, resume_step or 0)

    def on_train_batch_end(  # type: ignore[override]  # narrower types than Lightning's
        self,
        trainer: Trainer,
        pl_module: GenerativeModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Adds the micro-batch; at the end of an optimizer step, writes the row if it is due."""
        self._nats = self._nats.to(outputs["nats"].device) + outputs["nats"]
        self._weight = self._weight.to(outputs["weight"].device) + outputs["weight"]
        self.tokens += batch.tokens.numel() * trainer.world_size
        step = trainer.global_step
        if pl_module.stepped and (step % self.every == 0 or step == pl_module.max_steps):
            nats, weight = self._sums()
            self.write(
                trainer,
                "train",
                # Weight 0 (nothing but N since the last row) has no mean.
                nats / weight if weight else math.nan,
                learning_rate=trainer.optimizers[0].param_groups[0]["lr"],
                gradient_norm=float(pl_module.gradient_norm),
            )
            self._nats, self._weight = torch.zeros_like(self._nats), torch.zeros_like(self._weight)

    def write(self, trainer: Trainer, split: str, nats: float, **columns: float) -> None:
        """Appends a row to the file and sends it to the attached loggers."""
        row: dict[str, Any] = {
            "step": trainer.global_step,
            "split": split,
            "tokens": self.tokens,
            "nats_per_token": nats,
            "perplexity": math.exp(nats),
            **columns,
        }
        if not trainer.is_global_zero:
            return
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, COLUMNS).writerow({key: _digits(row[key]) for key in row})
        numbers = {
            f"{split}/{key}": row[key] for key in ("nats_per_token", "perplexity", *columns)
        }
        for logger in trainer.loggers:
            logger.log_metrics({**numbers, "tokens": self.tokens}, step=trainer.global_step)

    def state_dict(self) -> dict[str, float]:
        """The unfinished mean and the tokens seen; refuses to be saved once the loss has
        diverged."""
        nats, weight = self._sums()
        return {"nats": nats, "weight": weight, "tokens": self.tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on where `state_dict` stood."""
        self._nats = torch.tensor(state_dict["nats"], dtype=torch.float64)
        self._weight = torch.tensor(state_dict["weight"], dtype=torch.float64)
        self.tokens = state_dict["tokens"]

    def _sums(self) -> tuple[float, float]:
        nats, weight = float(self._nats), float(self._weight)
        if not math.isfinite(nats):
            raise DivergedError(
                f"the loss is {nats} before token {self.tokens:,}; the last checkpoint is kept. "
                "Lower optimizer.lr, or look at the data."
            )
        return nats, weight


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
