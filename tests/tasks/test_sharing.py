"""Commands that several processes share: what they write is what one process writes."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed

from genodiff.ranks import ALONE, Ranks
from tests.tasks.conftest import Genodiff
from tests.tasks.test_train_on_devices import TORCHRUN

Genome = tuple[str, str]
SCORED = ("data.split=test", "batch_size=3", "half_width=0.05", "seed=3")
DRAWN = ("num_samples=5", "length=32", "batch_size=2", "steps=8", "seed=3")
REGIONS = "chr3\t100\t120\ta\nchr3\t300\t330\tb\t0\t-\nchr3\t500\t501\tc\n"


def run(*words: str, program: tuple[str, ...] = ("-m", "genodiff")) -> str:
    """Runs a command; returns its standard error."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *program, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def read(path: str) -> dict[str, Any]:
    """A report without what differs from run to run."""
    report = json.loads(Path(path).read_text())
    for one in (report, *report.get("costs", ())):
        for key in ("seconds", "seconds_outside_the_network", "devices", "processes"):
            one.pop(key, None)
    return report


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("strands=both",), ("against=trained",)])
def test_two_processes_find_the_likelihood_that_one_finds(
    trained: str, more: tuple[str, ...]
) -> None:
    words = ("evaluate", f"checkpoint={trained}", *SCORED, *more, "device=cpu")
    stderr = run(*words, "devices=2", "out=two.json")
    assert stderr.count("test: perplexity") == 1 and "Warning" not in stderr, stderr
    run(*words, "out=one.json")
    one, two = read("one.json"), read("two.json")
    assert one["network_evaluations"] > one["sequences"] > 3
    assert two == one


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(trained: str) -> None:
    words = ("sample", f"checkpoint={trained}", *DRAWN, "device=cpu")
    run(*words, "devices=2", "out=two.fa")
    run(*words, "out=one.fa")
    assert Path("two.fa").read_text() == Path("one.fa").read_text()
    assert json.loads(Path("two.json").read_text())["processes"] == 2
    assert read("two.json") == read("one.json")


@pytest.mark.slow
def test_torchrun_starts_those_of_infill(genome: Genome, trained: str) -> None:
    Path("regions.bed").write_text(REGIONS)
    files = (f"checkpoint={trained}", f"genome={genome[0].partition('=')[2]}")
    words = (*files, "regions=regions.bed", "context=16", "num_samples=2", "device=cpu")
    program = ("-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "genodiff.tasks.infill")
    run(*words, "out=two.fa", program=program)
    run("infill", *words, "out=one.fa")
    assert Path("two.fa").read_text() == Path("one.fa").read_text()
    assert read("two.json") == read("one.json")


@pytest.mark.slow
def test_those_that_a_process_has_started_end_with_it(trained: str) -> None:
    words = ("sample", f"checkpoint={trained}", "num_samples=100000", "length=64", "batch_size=2")
    process = subprocess.Popen(
        [sys.executable, "-m", "genodiff", *words, "devices=2", "device=cpu", "out=two.fa"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    while "sequences drawn" not in process.stderr.readline():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]  # ends once all that hold the pipe have ended
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "genodiff sample: interrupted."
    assert not Path("two.fa").exists()


@pytest.mark.parametrize("n", [0, 1, 2, 6, 7])
def test_parts_are_put_together_in_the_order_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    items = [f"item {i}" for i in range(n)]
    parts = [Ranks(rank, 3).mine(items) for rank in range(3)]
    assert sorted(itertools.chain(*parts)) == items

    def gather(into: list[Any], mine: Any) -> None:
        assert mine == parts[1]
        into[:] = parts

    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert Ranks(1, 3).together(parts[1]) == items
    assert ALONE.mine(items) == items == ALONE.together(items)


@pytest.mark.parametrize(
    ("word", "environment", "message"),
    [
        ("devices=0", {}, "genodiff sample: devices=0 must be at least 1, or auto"),
        ("devices=3", TORCHRUN, "devices=3, but torchrun has started 2 nodes of 2 processes"),
        ("devices=some", {}, "devices=some is not an integer or one of auto"),
    ],
)
def test_devices_that_are_not_there_are_refused(
    genodiff: Genodiff,
    trained: str,
    monkeypatch: pytest.MonkeyPatch,
    word: str,
    environment: dict[str, str],
    message: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    outcome = genodiff("sample", f"checkpoint={trained}", *DRAWN, word, "out=x.fa")
    assert outcome.code == 2 and message in outcome.stderr, outcome.stderr
    assert not Path("x.fa").exists()
