"""Masked language modelling, the loss of BERT and of Caduceus' pre-training.

Devlin et al. 2018 (arXiv:1810.04805), section 3.1. A few tokens are *chosen*, and all of them are
predicted: most are masked, some are replaced by a random token and some are left as they are, so
that a network meets clean sequences too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn

from genodiff.diffusion.denoiser import NetworkDenoiser
from genodiff.diffusion.objective import Objective, spread
from genodiff.diffusion.parameterization import Mean
from genodiff.diffusion.process import absorbing
from genodiff.errors import UserError

_MASKED, _REPLACED = 0.8, 0.1


class Draws(NamedTuple):
    """What is random in a batch; each (b, l). The last three count at chosen tokens alone."""

    chosen: Tensor  # bool: it is predicted
    masked: Tensor  # bool: it becomes the mask
    replaced: Tensor  # bool: where it is not masked, it becomes its replacement; else it stays
    replacement: Tensor  # tokens


@dataclass(frozen=True)
class MaskedLM(Objective[Draws]):
    """Cross-entropy of the chosen tokens: a training loss, no bound of the likelihood.

    Each data token is chosen with `probability`; of those, 80 % become the mask, 10 % a token
    drawn from `replacements` and 10 % stay. The nats of a chosen token are divided by
    `probability`: the sum over a batch divided by the count of *all* its tokens, `mean_nats`, is
    then in expectation the mean cross-entropy of a chosen token, which is what is published.

    The model is a `NetworkDenoiser` that is not told the time, with the parameterization `Mean`:
    it says p(x_0) at tokens that are not masked too, where `Subs` takes them as they are. With
    subs_masking=true it predicts data tokens alone, and samples and likelihoods are those of
    `Subs`; without, any token, as published.

    Args:
        probability: in (0, 1], that a token is chosen.
        replacements: tokens; None for the data tokens. Caduceus takes all, special ones included.
    """

    probability: float = 0.15
    replacements: Sequence[int] | None = None

    kind = "loss"

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise UserError(
                f"probability={self.probability} of a token to be predicted is not in (0, 1]; use "
                "e.g. probability=0.15."
            )
        if self.replacements is not None and len(self.replacements) == 0:
            raise UserError(
                "replacements=[] leaves nothing to replace tokens by; leave it out for the data "
                "tokens."
            )

    def draw(
        self, model: nn.Module, x0: Int[Tensor, "b l"], *, generator: Generator | None
    ) -> Draws:
        """What is random. Raises UserError if the model does not fit, or a replacement is no
        token."""
        process = absorbing(_checked(model).process, "MaskedLM")
        ids = process.data_ids if self.replacements is None else self.replacements
        if min(ids) < 0 or max(ids) >= process.vocab_size:
            raise UserError(
                f"replacements={list(ids)} are not all tokens; use 0 .. {process.vocab_size - 1}."
            )
        u, fate = torch.rand(2, *x0.shape, device=x0.device, generator=generator)
        index = torch.randint(len(ids), x0.shape, device=x0.device, generator=generator)
        return Draws(
            chosen=(u < self.probability) & process.is_data(x0),
            masked=fate < _MASKED,
            replaced=fate < _MASKED + _REPLACED,
            replacement=torch.tensor(ids, device=x0.device)[index],
        )

    def nats(
        self,
        model: nn.Module,
        x0: Int[Tensor, "b l"],
        drawn: Draws,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        denoiser = _checked(model)
        x_t = corrupt(x0, drawn, absorbing(denoiser.process, "MaskedLM").mask_id)
        return self.at(denoiser, x0, x_t, drawn.chosen, condition)

    def at(
        self,
        model: NetworkDenoiser,
        x0: Int[Tensor, "b l"],
        x_t: Int[Tensor, "b l"],
        chosen: Bool[Tensor, "b l"],
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        """The nats of given inputs x_t, at the chosen tokens; 0 elsewhere."""
        no_time = torch.zeros(len(x0), 1, dtype=torch.float64, device=x0.device)
        log_p = model.log_likelihood_at(x0, x_t, no_time, chosen, condition)
        return spread(-log_p / self.probability, chosen)


def corrupt(x0: Int[Tensor, "b l"], draws: Draws, mask_id: int) -> Int[Tensor, "b l"]:
    """The network's input for given draws."""
    unmasked = torch.where(draws.replaced, draws.replacement, x0)
    return torch.where(draws.chosen, torch.where(draws.masked, mask_id, unmasked), x0)


def _checked(model: nn.Module) -> NetworkDenoiser:
    """The model, if masked language modelling can be read off it; else a UserError."""
    if not isinstance(model, NetworkDenoiser) or not isinstance(model.parameterization, Mean):
        part = getattr(model, "parameterization", model)
        raise UserError(
            f"MaskedLM with {type(part).__name__} does not see what the network says of tokens "
            "that are replaced or kept; use parameterization Mean with subs_masking=true."
        )
    if model.time_conditioning:
        raise UserError(
            "MaskedLM knows no time to tell; use time_conditioning=false, or another objective."
        )
    return model
