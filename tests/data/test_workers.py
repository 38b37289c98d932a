"""The readers of the field hand out wrong DNA when worker processes share one open file. Ours may
not."""

from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from genodiff.data import GenomeWindows, TrainBatches, fasta_data
from tests.data.toys import COMPLEMENT, ID_OF, random_sequence, write_bed, write_fasta

LENGTH, BATCH = 64, 250


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create .* worker processes:UserWarning")
@pytest.mark.parametrize(
    ("start_method", "n_workers", "n_windows"),
    [
        ("fork", 4, 100_000),
        pytest.param("fork", 8, 1_000_000, marks=pytest.mark.slow),
        pytest.param("spawn", 8, 1_000_000, marks=pytest.mark.slow),
    ],
)
def test_no_window_is_wrong_under_workers(
    start_method: Literal["fork", "spawn"], n_workers: int, n_windows: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(3)
    sequences = {
        f"chr{i}": random_sequence(int(n), rng) for i, n in enumerate((70_001, 7, 40_003))
    }
    fasta = write_fasta(tmp_path / "toy.fa", sequences, line_bases=61)
    bed = write_bed(
        tmp_path / "toy.bed", [("chr2", 0, 40_003, "train"), ("chr0", 1, 70_001, "train")]
    )
    data = fasta_data(
        *(fasta, bed, LENGTH, BATCH),
        reverse_complement=True,
        jitter=100,
        max_n_fraction=1.0,
        num_workers=n_workers,
        start_method=start_method,
        cache_dir=tmp_path,
    )
    windows = data.dataset("train")
    assert isinstance(windows, GenomeWindows)
    strands = {name: oracle_arrays(sequence) for name, sequence in sequences.items()}
    batches = TrainBatches(len(windows), BATCH, 0, 0)
    n_batches = n_windows // BATCH
    n_wrong = n_seen = 0
    for i, batch in enumerate(islice(data.train_loader(), n_batches)):
        for tokens, window in zip(
            batch.tokens.numpy(), windows.locate(batches.keys(i)), strict=True
        ):
            forward, reverse = strands[window.chrom]
            if window.strand == "+":
                expected = forward[window.start : window.end]
            else:
                n = len(reverse)
                expected = reverse[n - window.end : n - window.start]
            n_wrong += not np.array_equal(tokens, expected)
            n_seen += 1
    assert (n_wrong, n_seen) == (0, n_windows)


def oracle_arrays(sequence: str) -> tuple[np.ndarray, np.ndarray]:
    """The ids of both strands, letter by letter from the text."""
    reverse = sequence.translate(COMPLEMENT)[::-1]
    ids = [np.array([ID_OF[c] for c in strand.upper()]) for strand in (sequence, reverse)]
    return ids[0], ids[1]
