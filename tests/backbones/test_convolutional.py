"""The convolutional baseline against its layers written out."""

import pytest
import torch
from torch.nn import functional as F

from genodiff.backbones import ConvolutionalClassifier
from genodiff.errors import UserError


def test_it_is_what_is_published() -> None:
    torch.manual_seed(0)
    model = ConvolutionalClassifier(12, 3, 100).double().eval()
    tokens = torch.randint(12, (2, 100))
    weights = dict(model.named_parameters())
    x = weights["embedding.weight"][tokens].mT
    for i, (convolution, norm) in enumerate(((0, 1), (4, 5), (7, 8))):
        name = f"convolutions.{convolution}"
        x = F.conv1d(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        x = x / (1 + 1e-5) ** 0.5  # batch norm, untrained
        assert weights[f"convolutions.{norm}.weight"].unique().tolist() == [1.0]
        x = F.max_pool1d(x.relu() if i == 0 else x, 2)
    x = x.flatten(1) @ weights["score.0.weight"].T + weights["score.0.bias"]
    x = x @ weights["score.1.weight"].T + weights["score.1.bias"]
    torch.testing.assert_close(model(tokens), x, atol=1e-12, rtol=1e-9)
    # 100 -> 93 -> 46 -> 39 -> 19 -> 12 -> 6
    assert weights["score.0.weight"].shape == (512, 4 * 6)


def test_the_shortest_sequence_leaves_one_position() -> None:
    assert ConvolutionalClassifier(12, 2, 57)(torch.zeros(1, 57, dtype=torch.int64)).shape == (
        1,
        2,
    )
    with pytest.raises(UserError, match="length=56: three convolutions leave nothing"):
        ConvolutionalClassifier(12, 2, 56)
