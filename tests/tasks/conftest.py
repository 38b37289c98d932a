"""Running a task in this process as the command line would, and a genome to run it on."""

import contextlib
import importlib
import io
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from genodiff.parts import Parts
from genodiff.tasks.launch import launch


class Outcome(NamedTuple):
    """How a task ended."""

    code: int
    stdout: str
    stderr: str


Genodiff = Callable[..., Outcome]

SMALL = (
    "backbone.d_model=16",
    "backbone.n_layers=1",
    "trainer.max_steps=4",
    "trainer.validate_sequences=8",
    "trainer.checkpoint_every=2",
    "data.length=64",
    "device=cpu",
)
"""Overrides that make `train` take a second."""


@pytest.fixture
def genodiff(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Genodiff]:
    """`genodiff("train", "data=fasta", ...)` in an empty folder with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    handlers, level = logging.root.handlers[:], logging.root.level
    terminate = signal.getsignal(signal.SIGTERM)

    def run(task: str, *overrides: str) -> Outcome:
        module = importlib.import_module(f"genodiff.tasks.{task}")
        monkeypatch.setattr(sys, "argv", [f"genodiff/tasks/{task}.py", *overrides])
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            launch(task, module.main)
        assert isinstance(ended.value.code, int)
        return Outcome(ended.value.code, out.getvalue(), err.getvalue())

    yield run
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def genome(tmp_path: Path) -> tuple[str, str]:
    """`data.fasta=` and `data.bed=` of three chromosomes of 2,048 bases, one a split."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    fasta, bed = tmp_path / "genome.fa", tmp_path / "genome.bed"
    with fasta.open("wb") as file:
        for name in ("chr1", "chr2", "chr3"):
            file.write(
                f">{name}\n".encode() + letters[generator.integers(0, 4, 2048)].tobytes() + b"\n"
            )
    bed.write_text("chr1\t0\t2048\ttrain\nchr2\t0\t2048\tvalid\nchr3\t0\t2048\ttest\n")
    return f"data.fasta={fasta}", f"data.bed={bed}"


@pytest.fixture
def trained(genodiff: Genodiff, genome: tuple[str, str]) -> str:
    """A run folder."""
    outcome = genodiff("train", *genome, *SMALL, "out=trained")
    assert outcome.code == 0, outcome.stderr
    return "trained"


def interrupted_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the parts that commands write; as the third is to come, Ctrl-C, once."""
    write, made, interrupts = Parts.write, list[int](), [KeyboardInterrupt]

    def interrupted(self: Parts, index: int, *rest: Any) -> None:
        if len(made) == 2 and interrupts:
            raise interrupts.pop()
        made.append(index)
        write(self, index, *rest)

    monkeypatch.setattr(Parts, "write", interrupted)
    return made
