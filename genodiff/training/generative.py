"""Training any objective of any denoiser: `GenerativeModule`."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning
import torch
from jaxtyping import Float
from numpy.random import SeedSequence
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from genodiff.batch import TokenBatch
from genodiff.diffusion import Objective
from genodiff.errors import OutsideError
from genodiff.training.ema import ExponentialMovingAverage
from genodiff.training.optimizer import AdamWCosine
from genodiff.training.processes import Processes
from genodiff.training.sharding import gathered, kept_apart, whole

_DRAWS, _DROPOUT = 0, 1
"""What the random numbers of a step are for."""


class DivergedError(OutsideError):
    """The loss or the gradient of a step is not finite; the weights are those before that step.

    `step` counts the steps before it, and `rows` of its batch are to blame.
    """

    def __init__(self, what: str, step: int, rows: list[int]) -> None:
        super().__init__(f"step {step + 1}: {what}.")
        self.what, self.step, self.rows = what, step, rows


class GenerativeModule(lightning.LightningModule):
    """One optimizer step a batch: nats per token of the objective, weighted, summed, divided by
    the weights. Where batches have labels, the network is told them as its condition.

    Every process is given the whole batch of a step, draws what is random in all of it (times,
    masks, noise) from (seed, step), and scores its share of the rows, `micro_batch` of them at
    once. So the number of processes and the size of micro-batches change the result by rounding
    only, and a resumed run draws what an uninterrupted one would have drawn. Dropout alone is
    drawn for micro-batches, from (seed, step, first row): there the size matters, and not who
    computes it.

    Args:
        model: what the objective takes, e.g. a `NetworkDenoiser`.
        objective: maps (model, tokens) to nats (b, l).
        optimizer: how the parameters are optimised.
        max_steps: optimizer steps of the whole run, the horizon of the learning rate.
        micro_batch: the most sequences that a process scores at once; None for its whole share.
        gradient_clip: largest L2 norm of a step's gradient.
        ema_decay: of the averaged weights, which are validated, saved as best and sampled from.
        seed: of everything random in training.
        description: plain data stored in every checkpoint, from which the model can be rebuilt.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        optimizer: AdamWCosine,
        max_steps: int,
        micro_batch: int | None = None,
        gradient_clip: float = 1.0,
        ema_decay: float = 0.9999,
        seed: int = 0,
        description: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model = model
        self.objective = objective
        self.settings = optimizer
        self.max_steps = max_steps
        self.micro_batch = micro_batch
        self.gradient_clip = gradient_clip
        self.seed = seed
        self.description = dict(description or {})
        self.ema = ExponentialMovingAverage(self.model.parameters(), decay=ema_decay)
        self.gradient_norm = torch.zeros(())
        self.learning_rate = 0.0

    def forward(
        self, tokens: Tensor, drawn: tuple[Tensor, ...], condition: Tensor | None
    ) -> Float[Tensor, "b l"]:
        """The nats of what was drawn."""
        return self.objective.nats(self.model, tokens, drawn, condition)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The model with its averaged weights, while it lasts."""
        with self.ema.average_parameters(), gathered(self):
            yield self.model

    def training_step(self, batch: TokenBatch, batch_idx: int) -> dict[str, Tensor]:
        """Steps, and moves the average: the two never part. Returns the loss and the sums over
        the batch that it is the ratio of, `nats` and `weight`.

        Raises DivergedError, on all processes alike and before the step, where the loss or the
        gradient is not finite.
        """
        optimizer: Any = self.optimizers()
        schedule: Any = self.lr_schedulers()
        optimizer.zero_grad()
        weight = batch.weights.sum()
        divisor = torch.where(weight > 0, weight, 1.0)  # nothing but N has no mean
        trained = [p for p in self.model.parameters() if p.requires_grad]
        row_nats = self._backward(batch, divisor, trained)
        norm = nn.utils.clip_grad_norm_(trained, self.gradient_clip)
        self.gradient_norm = whole(norm)
        self._require_finite(row_nats)
        optimizer.step()
        self.learning_rate = float(schedule.get_last_lr()[0])
        schedule.step()
        self.ema.update()
        nats = row_nats.sum()
        return {"loss": nats / divisor, "nats": nats, "weight": weight}

    def configure_optimizers(self) -> Any:
        """AdamW with its per-step schedule."""
        optimizer, schedule = self.settings.build(self.model, self.max_steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the averaged weights and the description."""
        checkpoint["ema"] = self.ema.state_dict()
        checkpoint["genodiff"] = self.description

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the averaged weights back."""
        self.ema.load_state_dict(checkpoint["ema"])

    def on_fit_start(self) -> None:
        """The average follows the parameters to their device."""
        self.ema.follow(self.model.parameters())

    def _backward(
        self, batch: TokenBatch, divisor: Tensor, trained: list[nn.Parameter]
    ) -> Float[Tensor, " b"]:
        """Gives the parameters the gradient of the whole batch's loss, 0 where it reaches none.
        Returns the weighted nats of every row of it."""
        with gathered(self):
            drawn = self.objective.draw(self.model, batch.tokens, generator=self._generator())
        scale = self.trainer.world_size / divisor  # gradients are averaged over the processes
        row_nats = torch.zeros(len(batch.tokens), device=self.device)
        micro_batches = self._micro_batches(len(batch.tokens))
        for rows in micro_batches:
            torch.manual_seed(self._seed(_DROPOUT, rows.start))
            drawn_rows = type(drawn)(*(part[rows] for part in drawn))
            labels = None if batch.labels is None else batch.labels[rows]
            nats = self(batch.tokens[rows], drawn_rows, labels)
            weighted = (nats * batch.weights[rows]).sum(-1)
            row_nats[rows] = weighted.detach().to(row_nats.dtype)
            loss = _OfAll.apply(weighted.sum() * scale, *trained)
            with nullcontext() if rows is micro_batches[-1] else self._apart():
                self.manual_backward(loss)
        for parameter in trained:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return self.trainer.strategy.reduce(row_nats, reduce_op="sum")

    def _micro_batches(self, n_rows: int) -> list[slice]:
        """This process' share of the rows, in the pieces in which it takes them."""
        share = Processes(1, self.trainer.world_size).share(n_rows)
        first = self.global_rank * share
        size = self.micro_batch or share
        return [
            slice(start, min(start + size, first + share))
            for start in range(first, first + share, size)
        ]

    def _apart(self) -> AbstractContextManager[None]:
        """While it lasts, gradients stay in their process."""
        model: Any = self.trainer.strategy.model
        if isinstance(model, FSDPModule):
            return kept_apart(model)
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def _require_finite(self, row_nats: Float[Tensor, " b"]) -> None:
        finite = row_nats.isfinite()
        if bool(finite.all() & self.gradient_norm.isfinite()):
            return
        if not bool(finite.all()):
            what = f"the loss is {float(row_nats.sum())}"
            rows = (~finite).nonzero()[:, 0].tolist()
        else:
            what = f"the gradient's norm is {float(self.gradient_norm)}"
            rows = [int(row_nats.argmax())]
        raise DivergedError(what, self.global_step, rows)

    def _generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self._seed(_DRAWS, 0))

    def _seed(self, use: int, row: int) -> int:
        sequence = SeedSequence((self.seed, self.global_step, use, row))
        return int(sequence.generate_state(1, "uint64")[0] >> 1)


class _OfAll(torch.autograd.Function):
    """A loss as a function of all parameters, those included that it does not reach.

    DDP waits for a gradient of each of them, and which a micro-batch reaches depends on what was
    drawn: Plaid's rows that are told an estimate, for one, train the network alone. DDP's own
    answer, `find_unused_parameters`, is to search the graph at every step.
    """

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.n_parameters = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]  # one gradient, not any number
        return gradient, *[None] * ctx.n_parameters
