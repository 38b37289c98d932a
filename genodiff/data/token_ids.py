"""A tokenizer for models whose own is not at hand: sequences are bare token ids."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from genodiff.errors import UserError


@final
@dataclass(frozen=True)
class TokenIds:
    """Ids written as numbers, with spaces between: "12 5 7".

    All ids but the mask are data. Nothing pads: `pad_id` is the mask's, as in models that add both
    to a vocabulary without them.
    """

    vocab_size: int
    mask_id: int

    def __post_init__(self) -> None:
        if not 0 <= self.mask_id < self.vocab_size:
            raise UserError(
                f"mask_id={self.mask_id} is not in the vocabulary of {self.vocab_size}; use one "
                f"of 0 to {self.vocab_size - 1}."
            )

    @property
    def pad_id(self) -> int:
        """The mask's."""
        return self.mask_id

    @property
    def data_ids(self) -> tuple[int, ...]:
        """The ids that diffuse and are predicted."""
        return tuple(i for i in range(self.vocab_size) if i != self.mask_id)

    def encode(self, text: str) -> Int64[np.ndarray, "l"]:
        """The ids that `text` lists. Raises UserError for what is none."""
        for word in text.split():
            if not word.isdecimal() or int(word) >= self.vocab_size:
                raise UserError(
                    f"{word} is no token id; use numbers from 0 to {self.vocab_size - 1}, with "
                    "spaces between."
                )
        return np.array([int(word) for word in text.split()], dtype=np.int64)

    def decode(self, tokens: Sequence[int] | np.ndarray | Tensor) -> str:
        """The ids of one sequence as text."""
        ids = tokens.tolist() if isinstance(tokens, np.ndarray | Tensor) else tokens
        return " ".join(str(i) for i in ids)
