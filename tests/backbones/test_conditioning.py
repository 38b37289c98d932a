import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genodiff.backbones.conditioning import (
    ClassEmbedding,
    Modulation,
    TimeEmbedding,
    condition_vector,
    modulate,
)
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


def test_a_class_is_added_to_the_time() -> None:
    time, classes = randomized(TimeEmbedding(5)), randomized(ClassEmbedding(3, 5))
    sigma, labels = torch.tensor([[0.5], [2.0]], dtype=torch.float64), torch.tensor([2, 0])
    c = condition_vector(nn.Identity(), time, classes, sigma, labels, sigma.device)
    expected = F.silu(time(sigma)[:, 0] + classes.weight[labels])
    torch.testing.assert_close(c[:, 0], expected)


def test_no_condition_is_the_last_class_and_no_sigma_is_zero() -> None:
    time, classes = randomized(TimeEmbedding(5)), randomized(ClassEmbedding(3, 5))
    assert classes.no_class == 3
    device = torch.device("cpu")
    c = condition_vector(nn.Identity(), time, classes, None, None, device)
    assert c.shape == (1, 1, 5)
    zero, last = torch.zeros(2, 1), torch.tensor([3, 3])
    given = condition_vector(nn.Identity(), time, classes, zero, last, device)
    torch.testing.assert_close(given, c.expand(2, 1, 5))


def test_a_class_without_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="this Identity has no class input; pass condition=None"):
        time, label = TimeEmbedding(5), torch.tensor([0])
        condition_vector(nn.Identity(), time, None, None, label, label.device)
