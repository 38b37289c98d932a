"""What commands take of memory with the number of records, and what a kill takes of their output.

    python benchmarks/streaming.py [--records 100000] [--kills 3] [--seed 0] [--json FILE]

Every command that writes a record per input record (score, embed, infill, sample, predict) runs on
a tenth of the records and on all of them: the peak of its memory should not tell which. Then it is
killed (SIGKILL) at random moments and given again until it ends, and its output has to be that of
the run that never stopped, byte for byte. The genome is random, the network tiny: what is measured
is the command around it. Exit code 1 if a byte differs.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from commands import genodiff

GENODIFF = (sys.executable, "-m", "genodiff")
STRIDE, DESIGN, READ = 40, 20, 64  # bases between regions, of a region, of a sequence
TRAIN = (
    *("data=fasta", "data.fasta=genome.fa", "data.bed=genome.bed", "data.length=64"),
    *("backbone.d_model=16", "backbone.n_layers=1", "trainer.max_steps=4", "device=cpu"),
    *("trainer.validate_sequences=8", "out=model"),
)
FINETUNE = (
    *("data=labelled", "data.train=classes.csv", "data.test=classes.csv", "checkpoint=model"),
    *("max_steps=4", "batch_size=16", "device=cpu", "out=classifier"),
)
DESIGNS = ("genome=../genome.fa", "context=64", "steps=4", "batch_size=256")
COMMANDS = {
    "score": ("variants=../{}.vcf", "genome=../genome.fa", "context=64", "out=scored.vcf"),
    "embed": ("sequences=../{}.fa", "out=vectors.npz"),
    "infill": ("regions=../{}.bed", *DESIGNS, "out=designs.fa"),
    "sample": ("num_samples={}", "length=32", "steps=4", "batch_size=256", "out=samples.fa"),
    "predict": ("sequences=../{}.fa", "out=predicted.tsv"),
}


def main() -> None:
    """Parses the command line, measures, prints and writes."""
    parser = argparse.ArgumentParser(description="Memory and kills of streaming commands.")
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", nargs="+", default=list(COMMANDS), choices=COMMANDS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    sizes = (arguments.records // 10, arguments.records)
    report: dict[str, Any] = {
        "records": arguments.records,
        "kills": arguments.kills,
        "seed": arguments.seed,
        "rows": [],
    }
    target = arguments.json and arguments.json.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_inputs(sizes, chance)
        genodiff("train", *TRAIN)
        genodiff("finetune", *FINETUNE)
        for task in arguments.commands:
            row = measure(task, sizes, arguments.kills, chance)
            report["rows"].append(row)
            print(line(row), flush=True)
            if target:
                target.write_text(json.dumps(report, indent=2) + "\n")
    sys.exit(0 if all(row["equal"] for row in report["rows"]) else 1)


def write_inputs(sizes: tuple[int, int], chance: random.Random) -> None:
    """A random genome; variants, regions and sequences of it; and two classes of sequences."""
    genome = "".join(chance.choices("ACGT", k=STRIDE * (sizes[-1] + 2)))
    Path("genome.fa").write_text(f">chr1\n{genome}\n")
    half = len(genome) // 2
    rows = (f"chr1\t0\t{half}\ttrain\n", f"chr1\t{half}\t{len(genome)}\tvalid\n")
    Path("genome.bed").write_text("".join(rows))
    for n in sizes:
        starts = [STRIDE * (i + 1) for i in range(n)]
        with Path(f"{n}.vcf").open("w") as file:
            file.write(f"##fileformat=VCFv4.2\n##contig=<ID=chr1,length={len(genome)}>\n")
            file.write("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
            for i, start in enumerate(starts):
                ref = genome[start]
                alt = chance.choice([letter for letter in "ACGT" if letter != ref])
                file.write(f"chr1\t{start + 1}\tv{i}\t{ref}\t{alt}\t.\t.\t.\n")
        with Path(f"{n}.bed").open("w") as file:
            file.writelines(f"chr1\t{s}\t{s + DESIGN}\tr{i}\n" for i, s in enumerate(starts))
        with Path(f"{n}.fa").open("w") as file:
            file.writelines(f">s{i}\n{genome[s : s + READ]}\n" for i, s in enumerate(starts))
    with Path("classes.csv").open("w") as file:
        file.write("sequence,label\n")
        for i in range(200):
            letters = chance.choices("ACGT" if i % 2 else "ACGTT", k=READ)
            file.write(f"{''.join(letters)},{'even' if i % 2 else 'rich'}\n")


def measure(
    task: str, sizes: tuple[int, int], kills: int, chance: random.Random
) -> dict[str, Any]:
    """A tenth, all, and all with kills."""
    small, large = (Started.of(task, n, f"{task}_{n}").ended() for n in sizes)
    killed, folder = 0, f"{task}_killed"
    while killed < kills:
        started = Started.of(task, sizes[-1], folder)
        # The imports, the reading of the inputs, and then some of the parts.
        if started.killed_after(chance.uniform(0.2, 0.6) * large.seconds):
            killed += 1
        else:
            break
    Started.of(task, sizes[-1], folder).ended()
    straight, broken = (sorted(digests(Path(name))) for name in (large.folder, folder))
    return {
        "command": task,
        "seconds": large.seconds,
        "peak_mib": [small.peak_mib, large.peak_mib],
        "kills": killed,
        "equal": straight == broken,
        "left_behind": [p.name for p in Path(folder).iterdir() if p.name.startswith(".")],
    }


class Ended(NamedTuple):
    """A command that ended by itself."""

    folder: str
    seconds: float
    peak_mib: float


class Started(NamedTuple):
    """A command that runs, in a folder of its own."""

    process: subprocess.Popen[bytes]
    folder: str
    began: float

    @classmethod
    def of(cls, task: str, records: int, folder: str) -> "Started":
        Path(folder).mkdir(exist_ok=True)
        model = "classifier" if task == "predict" else "model"
        words = [word.format(records) for word in COMMANDS[task]]
        process = subprocess.Popen(
            [*GENODIFF, task, f"checkpoint=../{model}", *words, "device=cpu", "seed=0"],
            cwd=folder,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(process, folder, time.monotonic())

    def ended(self) -> Ended:
        """Waits for the end; exits if it is not a good one."""
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        if self.process.returncode:
            sys.exit(f"{self.process.args} ended with {self.process.returncode}")
        return Ended(self.folder, time.monotonic() - self.began, usage.ru_maxrss / 1024)

    def killed_after(self, seconds: float) -> bool:
        """Kills it then, unless it has ended."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return True
        return False


def digests(folder: Path) -> Iterator[tuple[str, str]]:
    """The outputs' names and checksums, but for the reports, which say seconds."""
    for path in folder.iterdir():
        if path.suffix != ".json" and not path.name.startswith("."):
            yield path.name, hashlib.sha256(path.read_bytes()).hexdigest()


def line(row: dict[str, Any]) -> str:
    small, large = row["peak_mib"]
    verdict = "equal" if row["equal"] else "DIFFERENT"
    return (
        f"{row['command']:<8} {row['seconds']:7.1f} s   {small:.0f} MiB of a tenth, "
        f"{large:.0f} MiB of all   {row['kills']} kills: {verdict}"
    )


if __name__ == "__main__":
    main()
