import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genodiff.backbones import Transformer
from genodiff.backbones.conditioning import (
    ClassEmbedding,
    Modulation,
    TimeEmbedding,
    condition_vector,
    modulate,
)
from genodiff.diffusion import (
    Absorbing,
    AntitheticTimes,
    ContinuousNelbo,
    LogLinear,
    NetworkDenoiser,
    Subs,
)
from genodiff.errors import UserError
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


def test_training_leaves_a_share_of_the_labels_out() -> None:
    classes, labels = ClassEmbedding(3, 5, dropout=0.2), torch.arange(3).repeat(10_000)
    torch.manual_seed(0)
    left_out = (classes(labels) == classes.weight[classes.no_class]).all(-1)
    kept = (classes(labels) == classes.weight[labels]).all(-1)
    # Standard errors are 0.0023.
    assert float(left_out.float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(kept.float().mean()) == pytest.approx(0.8, abs=0.01)
    assert torch.equal(classes.eval()(labels), classes.weight[labels])
    every = ClassEmbedding(3, 5, dropout=1.0)
    assert torch.equal(every(labels), every.weight[[3]].expand(len(labels), -1))


def test_one_network_learns_its_classes_and_their_mixture() -> None:
    # Class 0 is aaaa, class 1 is bbbb, and comes three times as often.
    torch.manual_seed(0)
    process = Absorbing(LogLinear(), 3, 2, (0, 1))
    network = Transformer(3, 16, 1, 2, cond_dim=16, n_classes=2, dropout=0.0)
    model = NetworkDenoiser(network, process, Subs(3, 2, (0, 1)))
    labels = torch.tensor([0, 1, 1, 1]).repeat(32)
    tokens = labels[:, None].expand(-1, 4).contiguous()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    objective = ContinuousNelbo(AntitheticTimes())
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        nats = objective(model, tokens, generator=generator, condition=labels)
        optimizer.zero_grad()
        nats.mean().backward()
        optimizer.step()
    network.eval()
    masks, t = torch.full((1, 4), 2), torch.ones(1, 1, dtype=torch.float64)
    for told, share in ((0, 0.0), (1, 1.0), (None, 0.75)):
        condition = None if told is None else torch.tensor([told])
        p = model.log_x0(masks, t, condition)[0, :, 1].exp()
        torch.testing.assert_close(p, torch.full_like(p, share), atol=0.1, rtol=0)


def test_a_share_of_labels_is_a_probability() -> None:
    with pytest.raises(
        UserError, match=r"class_dropout=1.5 is a probability; use one in \[0, 1\]"
    ):
        Transformer(12, 16, 1, 2, n_classes=4, class_dropout=1.5)
