"""A run that is killed a hundred times and gone on with each time, against one that never was.

    python benchmarks/kills.py [--kills 100] [--seed 0] [--json FILE]

A kill is aimed: at a genome's cache while it is built, at a checkpoint while it is written, at the
start (data, model, restoring), or at a random moment a few steps on. The process is stopped there
(SIGSTOP) and, while nothing moves, the files tell in which phase it is; then it gets SIGKILL, or
SIGTERM and leave to go on. After each kill the newest whole checkpoint must be no older than
before. In the end weights, averages, optimizer, log and samples must be those of the uninterrupted
run, bit for bit, and no temporary file may be left. Exit code 1 if not.

Every process is the command line's own, `genodiff train ...`, forked from this one, which has the
imports behind it: they would be most of the time.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

# Before torch is imported: a pool of threads does not survive a fork.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

from genodiff.cli import main as command_line
from genodiff.tasks import train as _train  # noqa: F401  for the processes that are forked
from genodiff.training import newest_checkpoint, read_checkpoint

VALIDATE = 20
TRAIN = (
    *("data=fasta", "data.fasta=genome.fa", "data.bed=genome.bed", "data.length=64"),
    *("backbone.d_model=16", "backbone.n_layers=1", f"trainer.validate_every={VALIDATE}"),
    *("trainer.validate_sequences=16", "trainer.log_every=5", "trainer.checkpoint_every=7"),
    *("trainer.sample_every=50", "trainer.micro_batch=4", "device=cpu"),
)
STEPS_A_KILL = 15
CACHE, CHECKPOINT = "building the cache", "writing a checkpoint"
START, TRAINING, VALIDATING = "starting", "training", "validating"
AIMS = (CACHE, CHECKPOINT, TRAINING, CACHE, CHECKPOINT, START)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = kill_and_compare(Path(folder), args.kills, random.Random(args.seed))
    text = json.dumps(report, indent=2)
    print(text)
    if args.json:
        args.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(0 if report["equal"] and not report["left_behind"] else 1)


def kill_and_compare(folder: Path, kills: int, chance: random.Random) -> dict[str, Any]:
    """Does it all in `folder`."""
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    write_genome(folder, chance)
    words = (*TRAIN, f"trainer.max_steps={STEPS_A_KILL * kills}")
    began = time.monotonic()
    Child(folder, *words, "out=straight").finish()
    seconds = time.monotonic() - began

    run, saved = folder / "broken", 0
    aims = [AIMS[kill % len(AIMS)] for kill in range(kills)]
    chance.shuffle(aims)
    fallen: Counter[str] = Counter()
    words = (*words, "out=broken", "overwrite=true")
    for aim in aims:
        if (run / "config.yaml").exists():
            words = ("resume=broken", "device=cpu")
        if aim == CACHE:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        child = Child(folder, *words)
        phase = child.stop_at(aim, chance)
        number = chance.choice([signal.SIGKILL, signal.SIGTERM])
        child.kill(number)
        fallen[f"{phase}, {number.name}"] += 1
        newest = newest_checkpoint(run / "checkpoints")
        if (newest.step if newest else 0) < saved:
            sys.exit(f"killed when {phase}: step {saved} was saved, and {newest} is left")
        saved = newest.step if newest else 0
    Child(folder, "resume=broken", "device=cpu").finish()
    return {
        "kills": kills,
        "fallen": dict(sorted(fallen.items())),
        "steps": STEPS_A_KILL * kills,
        "steps_saved_at_the_last_kill": saved,
        "equal": equal(state_of(folder / "straight"), state_of(run)),
        "left_behind": sorted(str(path.relative_to(folder)) for path in temporary_in(folder)),
        "seconds_uninterrupted": round(seconds, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


class Child:
    """A process that runs `genodiff train` in `folder`, on `folder/broken` if it is to be killed,
    and what that run looked like before."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder, self.run = folder, folder / "broken"
        self.leftovers = set(temporary_in(folder))
        self.log, (self.step, _) = self._log(), last_row(self.run)
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(run_command(folder, *words))

    def stop_at(self, aim: str, chance: random.Random) -> str:
        """Lets the process come to what is aimed at, and stops it. Returns in which phase."""
        goal = self.step + chance.randint(1, 2 * STEPS_A_KILL)
        if aim == START:
            time.sleep(chance.uniform(0.0, 1.0))
        elif aim != CACHE:
            while not (self._is_training() and last_row(self.run)[0] >= goal):
                self._sleep(0.001)
        if aim == TRAINING:
            time.sleep(chance.uniform(0.0, 0.1))
        while True:
            os.kill(self.pid, signal.SIGSTOP)
            self._wait(os.WUNTRACED)
            phase = self._phase()
            if aim in (START, TRAINING, phase):
                return phase
            os.kill(self.pid, signal.SIGCONT)
            while not self._temporary():
                self._sleep(0.0002)

    def kill(self, number: signal.Signals) -> None:
        """Sends the signal to the stopped process, and waits for its end."""
        os.kill(self.pid, number)
        os.kill(self.pid, signal.SIGCONT)
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status not in (-signal.SIGKILL, -signal.SIGTERM, 130):
            self._fail(status)

    def finish(self) -> None:
        """Waits for a good end."""
        if status := os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]):
            self._fail(status)

    def _phase(self) -> str:
        """What the process, which stands still, is at."""
        step, split = last_row(self.run)
        folders = {path.parent.name for path in self._temporary()}
        if "genomes" in folders:
            return CACHE
        if "checkpoints" in folders:
            return CHECKPOINT
        if not self._is_training():
            return START
        return VALIDATING if step % VALIDATE == 0 and split == "train" else TRAINING

    def _temporary(self) -> set[Path]:
        """Files that this process is writing."""
        return set(temporary_in(self.folder)) - self.leftovers

    def _is_training(self) -> bool:
        """Whether it has written metrics.csv anew, as it does where training begins."""
        return self._log() != self.log

    def _log(self) -> int | None:
        path = self.run / "metrics.csv"
        return path.stat().st_ino if path.exists() else None

    def _sleep(self, seconds: float) -> None:
        self._wait(os.WNOHANG)
        time.sleep(seconds)

    def _wait(self, options: int) -> None:
        """Fails if the process has ended by itself."""
        pid, status = os.waitpid(self.pid, options)
        if pid and not os.WIFSTOPPED(status):
            self._fail(os.waitstatus_to_exitcode(status))

    def _fail(self, status: int) -> NoReturn:
        sys.exit(f"ended with {status}:\n{(self.folder / 'stderr').read_text(encoding='utf-8')}")


def run_command(folder: Path, *words: str) -> int:
    """`genodiff train` in a process of its own, which has just been forked. Returns its code."""
    os.chdir(folder)
    os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
    sys.argv = ["genodiff", "train", *words]
    warnings.filterwarnings("ignore", message=".*found in sys.modules.*", module="runpy")
    try:
        command_line()
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def write_genome(folder: Path, chance: random.Random) -> None:
    """A FASTA that takes a while to encode, of which training sees a part."""
    bases = 8_000_000
    (folder / "genome.fa").write_text(f">a\n{''.join(chance.choices('ACGT', k=bases))}\n")
    rows = (f"a\t{i << 14}\t{i + 1 << 14}\t{s}\n" for i, s in enumerate(("train", "valid")))
    (folder / "genome.bed").write_text("".join(rows))


def temporary_in(folder: Path) -> list[Path]:
    return list(folder.rglob(".*.tmp"))


def last_row(run: Path) -> tuple[int, str]:
    """Step and split of the last row of the log; 0 where there is none."""
    log = run / "metrics.csv"
    rows = log.read_text(encoding="utf-8").splitlines()[1:] if log.exists() else []
    return (int((row := rows[-1].split(","))[0]), row[1]) if rows else (0, "")


def state_of(run: Path) -> dict[str, Any]:
    """All that a run leaves but for what the clock says."""
    last = read_checkpoint(run / "checkpoints" / "last.ckpt")
    kept = ("state_dict", "ema", "optimizer_states", "lr_schedulers", "global_step")
    return {
        **{key: last[key] for key in kept},
        "best": read_checkpoint(run / "checkpoints" / "best.ckpt")["ema"],
        "log": (run / "metrics.csv").read_bytes(),
        "samples": {path.name: path.read_bytes() for path in (run / "samples").iterdir()},
    }


def equal(left: Any, right: Any) -> bool:
    """Bit for bit."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


if __name__ == "__main__":
    main()
