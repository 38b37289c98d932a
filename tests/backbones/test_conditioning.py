import math

import torch
import torch.nn.functional as F

from genodiff.backbones.conditioning import Modulation, TimeEmbedding, modulate
from tests.backbones.toys import randomized


def test_time_features_are_cosines_then_sines() -> None:
    embedding = randomized(TimeEmbedding(5))
    sigma = 1.7
    angles = [sigma * math.exp(-math.log(10_000) * i / 128) for i in range(128)]
    features = torch.tensor(
        [math.cos(a) for a in angles] + [math.sin(a) for a in angles], dtype=torch.float64
    )
    expected = embedding.second(F.silu(embedding.first(features)))
    actual = embedding(torch.tensor([[sigma]], dtype=torch.float64))[0, 0]
    # The frequencies are in float32.
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


def test_modulation_is_nothing_at_initialisation() -> None:
    x = torch.randn(2, 5, 6)
    shift, scale = Modulation(3, 6, parts=2)(torch.randn(2, 1, 3))
    assert torch.equal(modulate(x, shift, scale), x)


def test_modulation_shifts_and_scales() -> None:
    x, shift, scale = torch.randn(2, 5, 6), torch.randn(2, 1, 6), torch.randn(2, 1, 6)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)
