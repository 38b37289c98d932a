"""`LeftToRight`: sampling from left-to-right models, one token after another."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Generator, Tensor

from genodiff.diffusion import categorical
from genodiff.diffusion.autoregressive import CausalModel
from genodiff.diffusion.sampling import Sampler
from genodiff.errors import UserError


@dataclass(frozen=True)
class LeftToRight(Sampler):
    """Draws each mask of x from p(x_i | x_<i), from left to right, of a `CausalModel`.

    Exact in law. Other tokens are given: those before a mask are what it is drawn from, a prompt;
    those after it are kept, but as they come later, it does not depend on them. So infilling
    between given tokens is not drawn from the law given both sides.

    A network that remembers what it has read (Mamba its state, a transformer keys and values) is
    called once for each position at which a row has something to draw, with the tokens since the
    last one; another network reads the whole prefix each time.

    Args:
        reshape: a change of each log p(x_i | x_<i), (b, k) to (b, k), such as a temperature.
        draw: how tokens are drawn.
        label: the class that the model is told; None for none.
    """

    reshape: Callable[[Tensor], Tensor] | None = None
    draw: categorical.Draw = categorical.draw
    label: int | None = None

    def restore(
        self,
        denoiser: CausalModel,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        model, is_open, condition = denoiser, self.masked(denoiser, x), None
        if frozen is not None:
            is_open = is_open & ~frozen
        if model.first_is_given and bool(is_open[:, :1].any()):
            raise UserError(
                "first_is_given=True and the first token is masked: this model has no start to "
                "draw it from; give the first token of every sequence."
            )
        if self.label is not None:
            condition = torch.full((len(x),), self.label, device=x.device)
        x, memory = x.clone(), model.begin()
        for i in is_open.any(0).nonzero()[:, 0].tolist():
            log_p = model.log_next(x[:, :i], condition, memory=memory)
            if self.reshape is not None:
                log_p = self.reshape(log_p)
            x[:, i] = torch.where(is_open[:, i], self.draw(log_p, generator), x[:, i])
        return x

    def masked(self, denoiser: CausalModel, x: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return x == denoiser.mask_id
