"""Text as the bytes of its UTF-8: 256 tokens for any language, none of them unknown."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int64
from torch import Tensor


@final
@dataclass(frozen=True)
class ByteTokenizer:
    """A token is a byte, its id the byte's value; mask and padding come after the 256."""

    # Not annotated, as `DnaTokenizer`'s.
    vocab_size = 258
    mask_id = 256
    pad_id = 257
    bos_id = None
    eos_id = None

    @property
    def data_ids(self) -> tuple[int, ...]:
        """The ids that diffuse and are predicted: every byte."""
        return tuple(range(256))

    def encode(self, text: str) -> Int64[np.ndarray, "l"]:
        """The bytes of `text`. Names of mask and padding in it are letters like any others."""
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64)

    def encode_batch(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "_"]]:
        """The bytes of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int] | np.ndarray | Tensor) -> str:
        """Text of one sequence of ids: `[MASK]` and `[PAD]` by name, U+FFFD (�) for bytes that
        are not UTF-8."""
        ids = tokens.tolist() if isinstance(tokens, np.ndarray | Tensor) else tokens
        unknown = sorted({i for i in ids if not 0 <= i < self.vocab_size})
        if unknown:
            raise ValueError(
                f"ids {unknown} are not in the vocabulary of {self.vocab_size}; keep a model from "
                "drawing the ids that pad its vocabulary."
            )
        names = {self.mask_id: b"[MASK]", self.pad_id: b"[PAD]"}
        return b"".join(names.get(i) or bytes([i]) for i in ids).decode(errors="replace")
