"""`GenomeWindows`: windows of a genome as a map-style dataset, read by whole batches.

A window is asked for by its key, (epoch, index). The index says where it lies; epoch and index
together decide its strand and its jitter, by a hash, so that neither depends on workers or order.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch.utils.data import Dataset

from genodiff.batch import TokenBatch
from genodiff.data.fasta import SOFT_MASK
from genodiff.data.genome import Genome
from genodiff.data.randomness import Stream, hash_counters, integers_below
from genodiff.data.tiling import Tiling
from genodiff.data.tokenizer import N_ID, DnaTokenizer
from genodiff.errors import UserError

Keys = Int64[np.ndarray, "b 2"]


class Window(NamedTuple):
    """Where a window was read: 0-based, half-open; strand '-' means reverse-complemented; its row
    of the BED."""

    chrom: str
    start: int
    end: int
    strand: Literal["+", "-"]
    bed_row: int

    def __str__(self) -> str:
        return f"{self.chrom}:{self.start}-{self.end}({self.strand})"


@final
class GenomeWindows(Dataset):
    """The windows of a tiling, as rows of codes (token id, high bit where the FASTA is lower
    case).

    Keys are (epoch, index), or an index of epoch 0. With `reverse_complement` half of the windows,
    others in each epoch, are read on the opposite strand; with `jitter_bp` each is moved by up to
    that many bases, as far as the tiling lets it. `collate` gives weight 0 to N (unless the
    tokenizer predicts it), `soft_mask_weight` to lower case, and 1 to the rest; `n_as_padding`
    also turns N into [PAD], as published.
    """

    def __init__(
        self,
        genome: Genome,
        tiling: Tiling,
        tokenizer: DnaTokenizer,
        *,
        reverse_complement: bool = False,
        jitter_bp: int = 0,
        soft_mask_weight: float = 1.0,
        n_as_padding: bool = False,
        seed: int = 0,
    ):
        if jitter_bp < 0:
            raise UserError(f"jitter={jitter_bp} is no number of bases; give 0 or more.")
        if not 0 <= soft_mask_weight <= 1:
            raise UserError(
                f"soft_mask_weight={soft_mask_weight} is a share of a base's weight; give 0 to 1."
            )
        if n_as_padding and tokenizer.predict_n:
            raise UserError(
                "predict_n=true cannot go with N read as padding (split_policy=caduceus); drop "
                "one of them."
            )
        self.genome, self.tiling, self.tokenizer = genome, tiling, tokenizer
        self.soft_mask_weight, self.n_as_padding = soft_mask_weight, n_as_padding
        self.reverse_complement, self.jitter_bp, self.seed = reverse_complement, jitter_bp, seed
        self._row_offsets = np.array(
            [genome.offset(row.chrom) for row in tiling.rows], dtype=np.int64
        )
        self._row_is_minus = np.array([row.strand == "-" for row in tiling.rows], dtype=bool)
        self._complement = _complement_codes(tokenizer)

    def __len__(self) -> int:
        return len(self.tiling)

    def __getitem__(self, key: int | tuple[int, int]) -> UInt8[np.ndarray, "l"]:
        """The codes of one window."""
        return self.__getitems__(_as_keys([key]))[0]

    def __getitems__(
        self, keys: Keys | Sequence[int | tuple[int, int]]
    ) -> UInt8[np.ndarray, "b l"]:
        """The codes of a batch of windows."""
        row, start, is_minus = self._read_at(_as_keys(keys))
        codes = self.genome.gather(self._row_offsets[row] + start, self.tiling.length_bp)
        codes[is_minus] = self._complement[codes[is_minus, ::-1]]
        return codes

    def collate(
        self, codes: UInt8[np.ndarray, "b l"] | Sequence[UInt8[np.ndarray, "l"]]
    ) -> TokenBatch:
        """Tokens and weights of a batch of codes."""
        codes = np.asarray(codes)
        ids = codes & np.uint8(SOFT_MASK - 1)
        is_n = ids == N_ID
        weights = np.where(codes < SOFT_MASK, np.float32(1), np.float32(self.soft_mask_weight))
        if not self.tokenizer.predict_n:
            weights *= ~is_n
        if self.n_as_padding:
            ids[is_n] = self.tokenizer.pad_id
        return TokenBatch(torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(weights))

    def locate(self, keys: Keys | Sequence[int | tuple[int, int]]) -> list[Window]:
        """Where the windows of these keys were read."""
        rows, starts, is_minus = (array.tolist() for array in self._read_at(_as_keys(keys)))
        length_bp = self.tiling.length_bp
        return [
            Window(
                self.tiling.rows[row].chrom, start, start + length_bp, "-" if minus else "+", row
            )
            for row, start, minus in zip(rows, starts, is_minus, strict=True)
        ]

    def plain(self) -> "GenomeWindows":
        """The same windows for evaluation: the BED's strand, no jitter, lower case at weight 1."""
        return GenomeWindows(
            self.genome, self.tiling, self.tokenizer, n_as_padding=self.n_as_padding
        )

    @property
    def cluster_ids(self) -> Int64[np.ndarray, "n"]:
        """The BED row of each window: windows of one row are not independent of each other."""
        return self.tiling.places(np.arange(len(self))).row

    def describe(self) -> dict[str, int]:
        """What the windows are made of, for logs and manifests."""
        return self.tiling.describe()

    def _read_at(
        self, keys: Keys
    ) -> tuple[Int64[np.ndarray, "b"], Int64[np.ndarray, "b"], np.ndarray]:
        """For each key the BED row, the start on the chromosome, and whether to read minus."""
        epoch, index = keys.T
        if len(index) and not 0 <= index.min() <= index.max() < len(self):
            raise IndexError(f"window {index.min()} to {index.max()} of {len(self)}")
        row, start, first_start, last_start = self.tiling.places(index)
        is_minus = self._row_is_minus[row]
        if self.reverse_complement:
            coin = hash_counters(self.seed, Stream.STRAND, epoch, index) & np.uint64(1)
            is_minus = is_minus ^ coin.astype(bool)
        if self.jitter_bp:
            low = np.maximum(first_start, start - self.jitter_bp)
            high = np.minimum(last_start, start + self.jitter_bp)
            start = low + integers_below(high - low + 1, self.seed, Stream.JITTER, epoch, index)
        return row, start, is_minus


def _as_keys(keys: Keys | Sequence[int | tuple[int, int]]) -> Keys:
    if isinstance(keys, np.ndarray):
        return keys
    pairs = [key if isinstance(key, tuple) else (0, key) for key in keys]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def _complement_codes(tokenizer: DnaTokenizer) -> UInt8[np.ndarray, "256"]:
    table = np.arange(256, dtype=np.uint8)
    table[: tokenizer.vocab_size] = tokenizer.complement
    table[SOFT_MASK : SOFT_MASK + tokenizer.vocab_size] = table[: tokenizer.vocab_size] | SOFT_MASK
    return table
