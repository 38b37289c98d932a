"""Steps that are repeated, so that errors of one are mended by the next: predictor and corrector.

Where p(x_s | x_r) is right, noising x_s by q(x_r | x_s) and restoring it leaves the law of x_s as
it is, and pulls a wrong law towards it. But a step draws its tokens as if they were independent:
the pair is wrong by what tokens that change together know of each other, an error of the order of
(r - s)^2, while the share of tokens that it mends is of the order of r - s.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor

from genodiff.diffusion.denoiser import Denoiser, cached
from genodiff.diffusion.sampling import Stepwise, even_times
from genodiff.errors import UserError


@dataclass(frozen=True)
class PredictorCorrector(Stepwise):
    """`Stepwise` whose every step t -> s is followed by `corrections` pairs s -> r -> s: forward
    by the process, and back by the model.

    Campbell et al. 2022 (arXiv:2205.14987) and Gat et al. 2024 (arXiv:2407.15595) have
    correctors of this kind, by the rates of the forward and the reverse process; here they are
    whole transitions, for any process. r = s + reach (t - s). A far reach mends more of what the
    network did wrong, a short one adds less error of its own: with an exact denoiser reach=1 gains
    nothing for uniform noise, reach=0.5 a third. Evaluations: steps (1 + corrections).
    """

    corrections: int = 1
    reach: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.corrections < 0:
            raise UserError(
                f"corrections={self.corrections}: a step is corrected that many times; use 0 or "
                "more."
            )
        if not 0 < self.reach <= 1:
            raise UserError(
                f"reach={self.reach} is the share of a step that is taken back, in (0, 1]; use "
                "e.g. 0.5."
            )

    def restore(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "b l"],
        frozen: Bool[Tensor, "b l"] | None,
        generator: Generator | None,
    ) -> Int[Tensor, "b l"]:
        denoiser = cached(denoiser)
        frozen = torch.zeros_like(x, dtype=torch.bool) if frozen is None else frozen
        free = denoiser.process.is_open(x) & ~frozen
        times = even_times(self.steps, self.t_end, x.device)[:, None, None].expand(-1, len(x), 1)
        x_t = x

        def restore(x_t: Tensor, t: Float[Tensor, "b 1"], s: Float[Tensor, "b 1"]) -> Tensor:
            drawn = self.draw(denoiser.log_transition(x_t, t, s), generator)
            return torch.where(free, drawn, x)

        for t, s in pairwise(times):
            x_t = restore(x_t, t, s)
            r = s + self.reach * (t - s)
            for _ in range(self.corrections):
                noised = denoiser.process.corrupt_from(x_t, s, r, generator=generator)
                x_t = restore(torch.where(free, noised, x), r, s)
        return torch.where(frozen, x, self._finish(denoiser, x_t, times[-1], frozen, generator))
