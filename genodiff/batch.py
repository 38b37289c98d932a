"""`TokenBatch`: what data gives and training takes."""

from typing import NamedTuple

from torch import Tensor


class TokenBatch(NamedTuple):
    """Token ids with the weight each carries in a loss or a denominator.

    Shapes: `tokens` (b, l) int64; `weights` (b, l) float32, 0 at N and padding, the soft-mask
    weight at lower-case bases, 1 elsewhere; `labels` (b,) or None.
    """

    tokens: Tensor
    weights: Tensor
    labels: Tensor | None = None
