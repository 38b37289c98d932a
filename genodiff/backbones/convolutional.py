"""The convolutional network that Genomic Benchmarks are published with: a baseline classifier."""

from jaxtyping import Float, Int
from torch import Tensor, nn

from genodiff.backbones.base import require_positive
from genodiff.errors import UserError

_KERNEL = 8
_CHANNELS = (16, 8, 4)
_SHORTEST = 57
"""Of which the convolutions leave one position."""


class ConvolutionalClassifier(nn.Module):
    """Embedding, three convolutions (width 8, batch norm, pooled by 2; a ReLU behind the first
    alone), two linear maps without anything between them: logits of a sequence.

    Gresova et al. 2023 (Genomic Benchmarks, BMC Genomic Data 24:25), its PyTorch code.

    Args:
        vocab_size: token ids.
        n_classes: logits a sequence.
        length: tokens of every sequence, padding included.
    """

    def __init__(
        self, vocab_size: int, n_classes: int, length: int, *, d_embedding: int = 100
    ) -> None:
        super().__init__()
        require_positive(vocab_size=vocab_size, n_classes=n_classes, d_embedding=d_embedding)
        if length < _SHORTEST:
            raise UserError(
                f"length={length}: three convolutions leave nothing of so few tokens; give "
                f"length={_SHORTEST} or more, which pads the sequences."
            )
        left = length
        for _ in _CHANNELS:
            left = (left - _KERNEL + 1) // 2
        self.embedding = nn.Embedding(vocab_size, d_embedding)
        layers: list[nn.Module] = []
        for i, (inner, outer) in enumerate(
            zip((d_embedding, *_CHANNELS), _CHANNELS, strict=False)
        ):
            layers += [nn.Conv1d(inner, outer, _KERNEL), nn.BatchNorm1d(outer)]
            layers += [nn.ReLU()] * (i == 0) + [nn.MaxPool1d(2)]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        self.score = nn.Sequential(nn.Linear(_CHANNELS[-1] * left, 512), nn.Linear(512, n_classes))

    def forward(self, tokens: Int[Tensor, "b l"]) -> Float[Tensor, "b c"]:
        """Logits."""
        return self.score(self.convolutions(self.embedding(tokens).mT))
