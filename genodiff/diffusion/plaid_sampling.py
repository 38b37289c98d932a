"""Sampling from Plaid: ancestral steps of Gaussian diffusion, then tokens by p(x_0 | z_0).

Gulrajani & Hashimoto 2023 (arXiv:2305.18619); Kingma et al. 2021 (VDM, arXiv:2107.00630).
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion import categorical
from genodiff.diffusion.gaussian import NoiseLevel, posterior
from genodiff.diffusion.plaid import PlaidModel
from genodiff.diffusion.reshaping import Reshape
from genodiff.diffusion.sampling import Sampler, check_steps, even_times
from genodiff.errors import UserError


@dataclass(frozen=True)
class PlaidSampler(Sampler):
    """(PlaidModel, tokens with masks) -> tokens.

    From z_1 ~ N(0, 1), `steps` steps t -> s by q(z_s | z_t, x) with the model's x_hat in the place
    of x, on an even grid to t=0; a model that takes an earlier x_hat is told that of the step
    before. Each token is then drawn from p(x_0 | z_0).

    Infilling: the model is told tokens that are not data (N, padding) as in training. Data tokens
    that are given go through the same steps with their own vector as x, so that z_t of them is
    theirs at every time: the replacement method, which is approximate, because the others are
    restored by what a noised neighbour says and not by what a clean one would. With
    `corrections`, each step is undone by q(z_t | z_s) and done again that many times (RePaint,
    Lugmayr et al. 2022, arXiv:2201.09865): then the others are heard again, and the samples tend
    to the law given these tokens. Evaluations: steps (1 + corrections) + 1.

    Args:
        mask_id: the token of x that stands for one to be sampled.
        steps: on a grid that is even in t.
        corrections: how often a step is repeated.
        score_temperature: the noise that the model sees in z is taken for 1 / score_temperature
            times as large: below 1 sharper. The published sampler has 0.9; 1 is the model's law.
        reshape: what is made of log p(x_0 | z_t) wherever it is read, also for x_hat; e.g. a
            `Temperature` or a `Nucleus`.
        draw: how the last tokens are drawn.
    """

    mask_id: int
    steps: int
    corrections: int = 0
    score_temperature: float = 1.0
    reshape: Reshape | None = None
    draw: categorical.Draw = categorical.draw

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.corrections < 0:
            raise UserError(
                f"corrections={self.corrections}: a step is repeated that many times; use 0 or "
                "more."
            )
        if not self.score_temperature > 0:
            raise UserError(
                f"score_temperature={self.score_temperature} must be positive; use e.g. 0.9, or "
                "1 for none."
            )

    def restore(
        self,
        denoiser: PlaidModel,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        model, unknown = denoiser, self.masked(denoiser, x)
        # Any data token: of those the model is told z alone.
        tokens = torch.where(unknown, model.data_ids[0], x)
        vectors = model.vectors()
        given = F.embedding(tokens, vectors)
        levels = _levels(model, even_times(self.steps, 0.0, x.device), len(x))
        told: Tensor | None = None

        def noise() -> Float[Tensor, "b l d"]:
            return torch.randn(
                given.shape, dtype=given.dtype, device=given.device, generator=generator
            )

        def read(z: Tensor, level: NoiseLevel) -> Float[Tensor, "b l k"]:
            log_p = model.log_x0(z, level, tokens, estimate=told)
            return log_p if self.reshape is None else self.reshape(log_p)

        z = torch.where(unknown[..., None], noise(), levels[0].add(given, noise()))
        for t, s in pairwise(levels):
            for repeated in range(1 + self.corrections):
                if repeated:
                    z = _further(z, s, t, noise())
                told = _mean(read(z, t), vectors)
                x_hat = self._sharpened(told, z, t)
                law = posterior(z, torch.where(unknown[..., None], x_hat, given), t, s)
                z = law.mean + law.variance.sqrt() * noise()
        where = unknown if frozen is None else unknown & ~frozen
        drawn = self.draw(read(z, levels[-1])[where], generator)
        return x.masked_scatter(where, drawn)

    def masked(self, denoiser: PlaidModel, x: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        return x == self.mask_id

    def _sharpened(
        self, x_hat: Float[Tensor, "b l d"], z: Float[Tensor, "b l d"], level: NoiseLevel
    ) -> Float[Tensor, "b l d"]:
        """The x that is in z with the noise that x_hat leaves, divided by the temperature."""
        if self.score_temperature == 1:
            return x_hat
        scaled = level.noise_in(z, x_hat) / self.score_temperature
        return (z - level.sigma.to(z.dtype) * scaled) / level.alpha.to(z.dtype)


def _levels(model: PlaidModel, times: Float[Tensor, " n"], rows: int) -> list[NoiseLevel]:
    """The noise of each time for so many rows; the schedule, a network, is asked for one."""
    levels = (value[:, None].expand(-1, rows, 1) for value in model.schedule(times[:, None]))
    return [NoiseLevel(*level) for level in zip(*levels, strict=True)]


def _mean(log_p: Float[Tensor, "b l k"], vectors: Float[Tensor, "k d"]) -> Float[Tensor, "b l d"]:
    """x_hat, in the dtype of the vectors also under autocast."""
    with torch.autocast(log_p.device.type, enabled=False):
        return log_p.to(vectors.dtype).exp() @ vectors


def _further(
    z_s: Float[Tensor, "b l d"],
    s: NoiseLevel,
    t: NoiseLevel,
    noise: Float[Tensor, "b l d"],
) -> Float[Tensor, "b l d"]:
    """z_t from q(z_t | z_s), for s <= t."""
    deviation = t.sigma * (-torch.expm1(s.gamma - t.gamma)).sqrt().unsqueeze(-1)
    return (t.alpha / s.alpha).to(z_s.dtype) * z_s + deviation.to(z_s.dtype) * noise
