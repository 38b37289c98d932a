"""Time and memory of the statistics of sets of sequences, by the number of sequences.

    python benchmarks/set_statistics.py [--sequences 1000 4000] [--fasta genome.fa.gz] [--out FILE]

Sequences of 1,024 letters are a stream, half of them stretches of the training set with 10 %
mutations; the training set is a FASTA, or 5.9 million random letters. Each statistic runs in a
process of its own, on one thread: process CPU time and the most memory, libraries and the training
set included. The stream itself is the first row.
"""

import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, parser_of

from genodiff.data import read_fasta
from genodiff.evaluation import (
    composition,
    distinct_words,
    divergence,
    kmer_spectra,
    neighbours,
    neighbours_within,
    noise_floors,
)
from genodiff.evaluation.shuffles import markov_control, shuffled
from genodiff.files import write_text

LENGTH = 1024
TRAINING_LETTERS = 5_900_000
LETTERS = np.frombuffer(b"ACGT", np.uint8)


class Sequences:
    """A stream of sequences that is the same each time, and never held whole."""

    def __init__(self, n: int, training: list[str]) -> None:
        self.n, self.training = n, training

    def __iter__(self) -> Iterator[str]:
        for number in range(self.n):
            random = np.random.default_rng(number)
            letters = random.choice(LETTERS, LENGTH)
            if number % 2:
                text = self.training[random.integers(len(self.training))]
                begin = random.integers(max(len(text) - LENGTH, 1))
                copied = np.frombuffer(text[begin : begin + LENGTH].encode(), np.uint8)
                keep = random.random(len(copied)) < 0.9
                letters[: len(copied)][keep] = copied[keep]
            yield letters.tobytes().decode()


def spectra(sequences: Iterable[str], training: list[str]) -> None:
    """Two sets, all k, 200 resamples, their divergences and the noise floor."""
    ours, theirs = kmer_spectra(sequences), kmer_spectra(sequences, seed=1)
    for k, spectrum in ours.items():
        divergence(spectrum, theirs[k])
    noise_floors(sequences, size=500)


STATISTICS: dict[str, Callable[[Iterable[str], list[str]], object]] = {
    "stream alone": lambda sequences, _: sum(map(len, sequences)),
    "spectra": spectra,
    "composition": lambda sequences, _: composition(sequences),
    "shuffled": lambda sequences, _: sum(map(len, shuffled(sequences))),
    "markov_control": lambda sequences, _: sum(
        map(len, markov_control(sequences, sum(1 for _ in sequences), LENGTH))
    ),
    "distinct_words": lambda sequences, _: distinct_words(sequences),
    "neighbours": lambda sequences, training: neighbours(sequences, lambda: training),
    "neighbours_within": lambda sequences, _: neighbours_within(sequences),
}


def measured(name: str, n: int, training: list[str], send: Any) -> None:
    """Runs in its own process."""
    torch.set_num_threads(1)
    sequences = Sequences(n, training)
    start = time.process_time()
    STATISTICS[name](sequences, training)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    send.send({"seconds": round(seconds, 2), "peak_mib": peak // 1024})


def main() -> None:
    """Parses the command line and prints."""
    parser = parser_of(__doc__)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1000, 4000])
    parser.add_argument("--fasta", type=Path, help="the training set")
    parser.add_argument("--only", nargs="+", choices=STATISTICS, default=list(STATISTICS))
    arguments = parser.parse_args()
    random = np.random.default_rng(0)
    training = [random.choice(LETTERS, TRAINING_LETTERS).tobytes().decode()]
    if arguments.fasta is not None:
        training = [record.letters.upper() for record in read_fasta(arguments.fasta)]
    rows = []
    for name in arguments.only:
        for n in arguments.sequences:
            receive, send = multiprocessing.Pipe(duplex=False)
            process = multiprocessing.Process(target=measured, args=(name, n, training, send))
            process.start()
            rows.append({"statistic": name, "sequences": n, **receive.recv()})
            process.join()
            print(f"{name:<18} {n:>8,} {rows[-1]['seconds']:>8} s {rows[-1]['peak_mib']:>6} MiB")
    report = {
        "machine": machine(torch.device("cpu")),
        "length": LENGTH,
        "training_letters": sum(map(len, training)),
        "rows": rows,
    }
    if arguments.out:
        write_text(arguments.out, json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
