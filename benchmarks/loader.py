"""Windows per second: `GenomeWindows` against pyfaidx and a dictionary, as published loaders read.

    python benchmarks/loader.py [--megabases 100] [--seconds 1.5] [--rounds 5] [--json FILE]

One process and one thread, a synthetic FASTA of 60-base lines, warm cache. Variants are
interleaved and the median of the rounds is given. Ids are included in all: pyfaidx gives letters
that a dictionary turns into an int64 array; ours are bytes (`ids`), or int64 tokens with float32
weights (`batch`), which is what a network takes and whose 12 bytes a base are the cost. Before
anything is timed, the variants are compared.

Before that, the same FASTA, plain and as bgzip, is encoded into a cache by processes of their own
that may use one core or all of them, and opened from it.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pyfaidx
import torch
from Bio import bgzf

from genodiff.data import BedRow, DnaTokenizer, Genome, GenomeWindows, InsideRows

LENGTHS_BP = (1024, 131_072)
BASES_A_BATCH = 2**20
GOALS = {1024: 20, 131_072: 200}
IDS = dict(zip("ACGTN", range(7, 12), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--megabases", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each variant in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fasta = write_random_fasta(Path(folder) / "random.fa", args.megabases)
        builds = [
            measure_build(path, cores, args.megabases)
            for path in (fasta, bgzip(fasta))
            for cores in sorted({1, len(os.sched_getaffinity(0))})
        ]
        genome = Genome(fasta, cache_dir=Path(folder) / "cache")
        results = [measure(fasta, genome, n, args.seconds, args.rounds) for n in LENGTHS_BP]
    report = {"machine": machine(), "builds": builds, "lengths": results}
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def write_random_fasta(path: Path, megabases: int) -> Path:
    """Ten chromosomes in lines of 60; a tenth of the bases in lower case."""
    rng = np.random.default_rng(0)
    n_lines = megabases * 100_000 // 60
    with path.open("wb") as file:
        for chrom in range(10):
            letters = np.full((n_lines, 61), ord("\n"), dtype=np.uint8)
            letters[:, :60] = np.frombuffer(b"ACGT", dtype=np.uint8)[
                rng.integers(0, 4, (n_lines, 60))
            ]
            letters[: n_lines // 10, :60] |= 0x20
            file.write(f">chr{chrom}\n".encode() + letters.tobytes())
    return path


def bgzip(fasta: Path) -> Path:
    """The same text, compressed as `bgzip` does."""
    path = fasta.with_name(f"{fasta.name}.gz")
    with fasta.open("rb") as plain, bgzf.BgzfWriter(str(path)) as compressed:
        while block := plain.read(1 << 20):
            compressed.write(block)
    return path


def measure_build(fasta: Path, cores: int, megabases: int) -> dict:
    """Seconds, and memory beside the mapped file, of encoding a FASTA, in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        build = pool.submit(build_and_open, fasta, cores).result()
    return {"file": fasta.suffix, "megabases": megabases, "cores": cores, **build}


def build_and_open(fasta: Path, cores: int) -> dict[str, float]:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of importing torch
    before = peak_mib()
    with tempfile.TemporaryDirectory() as cache:
        wall, cpu = time.perf_counter(), time.process_time()
        Genome(fasta, cache_dir=cache)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        memory = peak_mib() - before
        start = time.perf_counter()
        Genome(fasta, cache_dir=cache)
        opened = time.perf_counter() - start
    return {"seconds": wall, "cpu_seconds": cpu, "mib": memory, "open_seconds": opened}


def peak_mib() -> float:
    """The most memory this process has had; `getrusage` would count the parent's."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def measure(fasta: Path, genome: Genome, length_bp: int, seconds: float, rounds: int) -> dict:
    """Median windows per second of each variant, and the ratios to the first."""
    rows = [BedRow(chrom, 0, n, "train", "+", 1) for chrom, n in genome.lengths.items()]
    windows = GenomeWindows(genome, InsideRows(genome, rows, length_bp), DnaTokenizer())
    batch_size = max(1, BASES_A_BATCH // length_bp)
    rng = np.random.default_rng(1)

    def random_keys() -> np.ndarray:
        index = rng.integers(0, len(windows), batch_size)
        return np.stack([np.zeros_like(index), index], axis=1)

    with pyfaidx.Fasta(str(fasta), sequence_always_upper=True) as reader:

        def by_pyfaidx() -> np.ndarray:
            places = windows.locate(random_keys())
            texts = [str(reader[w.chrom][w.start : w.end]) for w in places]
            return np.array([[IDS[letter] for letter in text] for text in texts])

        def ids() -> np.ndarray:
            return windows.__getitems__(random_keys())

        def batch() -> np.ndarray:
            return windows.collate(windows.__getitems__(random_keys())).tokens.numpy()

        variants: dict[str, Callable[[], np.ndarray]] = {
            "pyfaidx": by_pyfaidx,
            "ids": ids,
            "batch": batch,
        }
        check_agreement(variants, rng)
        speeds: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(rounds):
            for name, variant in variants.items():
                speeds[name].append(batch_size * calls_per_second(variant, seconds))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    return {
        "length_bp": length_bp,
        "batch_size": batch_size,
        "windows_per_second": medians,
        "times_pyfaidx": {name: value / medians["pyfaidx"] for name, value in medians.items()},
        "goal": GOALS[length_bp],
    }


def check_agreement(
    variants: dict[str, Callable[[], np.ndarray]], rng: np.random.Generator
) -> None:
    """Every variant reads the same bases."""
    state = rng.bit_generator.state
    read = []
    for variant in variants.values():
        rng.bit_generator.state = state
        read.append(variant() & 127)
    if not all(np.array_equal(ids, read[0]) for ids in read):
        raise RuntimeError("the variants read different bases")


def calls_per_second(call: Callable[[], object], seconds: float) -> float:
    """Calls in a second of this process' CPU time, from at least `seconds` of it."""
    n, start = 0, time.process_time()
    while (elapsed := time.process_time() - start) < seconds:
        call()
        n += 1
    return n / elapsed


def machine() -> dict[str, str]:
    cpu = next(
        (line.partition(":")[2].strip() for line in _cpu_lines() if line.startswith("model name")),
        platform.processor(),
    )
    versions = {
        "numpy": np.__version__,
        "torch": torch.__version__,
        "pyfaidx": pyfaidx.__version__,
    }
    return {"cpu": cpu, "python": platform.python_version(), **versions}


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def show(report: dict) -> None:
    print(report["machine"]["cpu"])
    for build in report["builds"]:
        print(
            f"{build['megabases']} Mb ({build['file']}) on {build['cores']} cores: encoded in "
            f"{build['seconds']:.2f} s, {build['cpu_seconds']:.2f} s of CPU, with "
            f"{build['mib']:.0f} MiB; opened again in {1e3 * build['open_seconds']:.1f} ms"
        )
    print(f"{'length':>8} {'variant':>8} {'windows/s':>11} {'x pyfaidx':>10} {'goal':>5}")
    for result in report["lengths"]:
        for name, speed in result["windows_per_second"].items():
            goal = f"{result['goal']}" if name == "ids" else ""
            ratio = result["times_pyfaidx"][name]
            print(f"{result['length_bp']:>8} {name:>8} {speed:>11,.0f} {ratio:>10.1f} {goal:>5}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
