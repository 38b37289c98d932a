"""text8's alphabet, a to z and the space, with the ids of MDLM's tokenizer of it.

    [CLS] 0  [SEP] 1  [BOS] 2  [EOS] 3  [MASK] 4  [PAD] 5  [RESERVED] 6  [UNK] 7
    a 8  b 9  ...  z 33  space 34

Sahoo et al. 2024 (arXiv:2406.07524), `Text8Tokenizer`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Int64
from torch import Tensor

VOCABULARY = (
    *("[CLS]", "[SEP]", "[BOS]", "[EOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]"),
    *"abcdefghijklmnopqrstuvwxyz ",
)
_UNK_ID = 7


@final
@dataclass(frozen=True)
class CharacterTokenizer:
    """A token is a character; upper case is read as lower case, any other character as [UNK].

    As published, every id but the mask's may be predicted, since the blocks of MDLM's text8 hold
    [BOS] and [EOS], which count in its perplexities. The padding's may not: it never stands for
    text. In text8 itself only the 27 characters occur, and bits per character are per one of them.
    """

    # Not annotated, as `DnaTokenizer`'s.
    vocab_size = 35
    bos_id = 2
    eos_id = 3
    mask_id = 4
    pad_id = 5

    @property
    def data_ids(self) -> tuple[int, ...]:
        """The ids that diffuse and are predicted: all but the mask's and the padding's."""
        return tuple(i for i in range(self.vocab_size) if i not in (self.mask_id, self.pad_id))

    def encode(self, text: str) -> Int64[np.ndarray, "l"]:
        """The ids of the characters of `text`. Names of special tokens in it are letters like any
        others."""
        # `lower` before anything is looked up: it may give two characters for one.
        points = np.frombuffer(text.lower().encode("utf-32-le", "surrogatepass"), dtype="<u4")
        is_letter = (points >= ord("a")) & (points <= ord("z"))
        ids = np.where(is_letter, points.astype(np.int64) - ord("a") + 8, _UNK_ID)
        return np.where(points == ord(" "), 34, ids)

    def encode_batch(self, texts: Sequence[str]) -> list[Int64[np.ndarray, "_"]]:
        """The ids of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens: Sequence[int] | np.ndarray | Tensor) -> str:
        """Text of one sequence of ids: characters as they are, the rest by name, such as
        `[UNK]`."""
        ids = tokens.tolist() if isinstance(tokens, np.ndarray | Tensor) else tokens
        unknown = sorted({i for i in ids if not 0 <= i < self.vocab_size})
        if unknown:
            raise ValueError(
                f"ids {unknown} are not in the vocabulary of {self.vocab_size}; keep a model from "
                "drawing the ids that pad its vocabulary."
            )
        return "".join(VOCABULARY[i] for i in ids)
