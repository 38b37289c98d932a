"""What TensorBoard reads, and a disk that takes nothing."""

import resource
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from genodiff.training import read_metrics
from genodiff.training.tensorboard import TensorBoard
from tests.training import tiny


def test_tensorboard_reads_the_curves_of_a_run(tmp_path: Path) -> None:
    tiny.run(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for split in ("train", "valid"):
        points = [(p.step, p.value) for p in events.Scalars(f"{split}/nats_per_token")]
        rows = [row for row in read_metrics(tmp_path / "metrics.csv") if row["split"] == split]
        expected = [(row["step"], row["nats_per_token"]) for row in rows]
        assert points == [(step, pytest.approx(nats, rel=1e-6)) for step, nats in expected]


def test_a_full_disk_leaves_points_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    board = TensorBoard(tmp_path / "tensorboard")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    limits = (0, 0, before[0], 10, before[0])
    for step, limit in enumerate(limits):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        board.log_metrics({"a": float(step)}, step=step)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [point.step for point in events.Scalars("a")] == [2, 4]
    told = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in told] == ["step 0", "step 3"]  # once an outage
    assert all(line.endswith("takes no points (File too large).") for line in told)
