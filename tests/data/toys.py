"""Small genomes for the tests of the data layer, written in the awkward ways that FASTA allows."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

# The oracle's own table: ids of Schiff et al. 2024, written out and not taken from the package.
ID_OF = {"A": 7, "C": 8, "G": 9, "T": 10, "N": 11}
COMPLEMENT = str.maketrans("ACGTNacgtn", "TGCANtgcan")


def random_sequence(length: int, rng: np.random.Generator, letters: str = "ACGTacgtNn") -> str:
    return "".join(rng.choice(list(letters), length))


def fasta_text(sequences: Mapping[str, str], line_bases: int = 60, end: str = "\n") -> str:
    """FASTA with lines of one length; the headers carry a description."""
    text = []
    for name, sequence in sequences.items():
        lines = [sequence[i : i + line_bases] for i in range(0, len(sequence), line_bases)]
        text += [f">{name} a description > of it", *lines]
    return end.join(text) + end


def write_fasta(
    path: Path, sequences: Mapping[str, str], line_bases: int = 60, end: str = "\n"
) -> Path:
    path.write_bytes(fasta_text(sequences, line_bases, end).encode())
    return path


def write_bed(path: Path, rows: Sequence[tuple[str, int, int, str]]) -> Path:
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    return path


def ids_of(sequence: str) -> np.ndarray:
    return np.array([ID_OF[letter] for letter in sequence.upper()], dtype=np.int64)


def reverse_complement(sequence: str) -> str:
    return sequence.translate(COMPLEMENT)[::-1]
