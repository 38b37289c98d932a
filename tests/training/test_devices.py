"""Where a step is computed changes its result by rounding only: micro-batches, processes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from genodiff.errors import UserError
from genodiff.training import read_checkpoint, read_metrics
from genodiff.training.sharding import ShardedStrategy
from tests.training.test_fit import assert_equal, contents
from tests.training.worlds import OBJECTIVES, STEPS, train, train_on_several, write_genome


def assert_close(left: Path, right: Path) -> None:
    """The weights, averages and logs of two runs, to float32 rounding of six steps: differences
    of 1e-6 in the gradient, of which a step makes at most lr / eps = 0.4 times as much."""
    one, other = (read_checkpoint(run / "checkpoints" / "last.ckpt") for run in (left, right))
    pairs: list[tuple[Tensor, Tensor]] = [
        *zip(one["state_dict"].values(), other["state_dict"].values(), strict=True),
        *zip(one["ema"]["shadow"], other["ema"]["shadow"], strict=True),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    logs: list[list[dict[str, Any]]] = [read_metrics(run / "metrics.csv") for run in (left, right)]
    assert len(logs[0]) == STEPS + 2
    for a, b in zip(*logs, strict=True):
        assert a.pop("split") == b.pop("split")
        numbers = [
            {key: value for key, value in row.items() if value is not None} for row in (a, b)
        ]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_micro_batches_change_nothing_but_rounding(tmp_path: Path, objective: str) -> None:
    genome = list(write_genome(tmp_path))
    train(str(tmp_path / "whole"), objective, genome)
    train(str(tmp_path / "parts"), objective, genome, micro_batch=3)
    assert_close(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_change_nothing_but_rounding(tmp_path: Path) -> None:
    genome = list(write_genome(tmp_path))
    jobs = []
    for objective in OBJECTIVES:
        train(str(tmp_path / objective), objective, genome)
        job: dict[str, Any] = {"objective": objective, "genome": genome, "devices": 2}
        jobs.append({"run": f"{tmp_path}/{objective}_two", **job})
        jobs.append({"run": f"{tmp_path}/{objective}_parts", "micro_batch": 3, **job})
    # Dropout depends on the size of micro-batches, and not on who computes them.
    small = ("backbone.d_model=16", "backbone.n_layers=1", "backbone.dropout=0.5")
    job = {"objective": "mdlm", "genome": genome, "backbone": ("backbone=dimamba", *small)}
    train(str(tmp_path / "dropout"), **job, micro_batch=2)
    jobs.append({"run": f"{tmp_path}/dropout_two", **job, "devices": 2, "micro_batch": 2})
    assert train_on_several(jobs) == [0, 0]
    assert_close(tmp_path / "dropout", tmp_path / "dropout_two")
    for objective in OBJECTIVES:
        assert_close(tmp_path / objective, tmp_path / f"{objective}_two")
        assert_close(tmp_path / objective, tmp_path / f"{objective}_parts")


@pytest.mark.slow
def test_shares_of_a_model_are_the_model(tmp_path: Path) -> None:
    """FSDP, begun with whole weights on one process, and gone on with whole ones again; and begun
    with shares, gone on with whole weights, and ended with shares."""
    genome = list(write_genome(tmp_path))
    several: dict[str, Any] = {"genome": genome, "devices": 2, "strategy": "fsdp"}
    jobs = []
    for objective in OBJECTIVES.keys() - {"plaid"}:
        run = str(tmp_path / f"{objective}_shares")
        train(str(tmp_path / objective), objective, genome)
        jobs.append({"run": run, "objective": objective, "micro_batch": 3, **several})
    job: dict[str, Any] = {"run": str(tmp_path / "mixed"), "objective": "mdlm"}
    train(**job, genome=genome, stop_at=1)
    other: dict[str, Any] = {"run": str(tmp_path / "other"), "objective": "mdlm"}
    jobs += [{**job, **several, "stop_at": 3}, {**other, **several, "stop_at": 1}]
    assert train_on_several(jobs) == [0, 0]
    assert (tmp_path / "mixed" / "checkpoints" / "last.ckpt").is_dir()
    assert train(**job, genome=genome).steps == STEPS
    train(**other, genome=genome, stop_at=3)
    assert (tmp_path / "other" / "checkpoints" / "last.ckpt").is_file()
    assert train_on_several([{**other, **several}]) == [0, 0]
    for objective in OBJECTIVES.keys() - {"plaid"}:
        assert_close(tmp_path / objective, tmp_path / f"{objective}_shares")
    assert_close(tmp_path / "mdlm", tmp_path / "mixed")
    assert_close(tmp_path / "mdlm", tmp_path / "other")


def test_a_model_with_single_numbers_cannot_be_cut() -> None:
    strategy = ShardedStrategy()
    strategy.model = nn.ParameterDict({"gamma_0": nn.Parameter(torch.zeros(()))})
    with pytest.raises(UserError, match="fsdp cannot cut gamma_0, a single number"):
        strategy.configure_ddp()


@pytest.mark.slow
def test_a_run_that_changes_its_devices_is_the_run_that_does_not(tmp_path: Path) -> None:
    """1 -> 2 -> 1 processes. The second is stopped by a signal to one of the two."""
    genome = list(write_genome(tmp_path))
    for objective in ("mdlm", "plaid"):
        straight, broken = tmp_path / f"{objective}_straight", tmp_path / f"{objective}_broken"
        assert not train(str(straight), objective, genome).interrupted
        job: dict[str, Any] = {"run": str(broken), "objective": objective, "genome": genome}
        assert train(**job, stop_at=1).steps < STEPS
        assert train_on_several([{**job, "devices": 2, "stop_at": 3}]) == [0, 0]
        step = read_checkpoint(broken / "checkpoints" / "last.ckpt")["global_step"]
        assert step in (3, 4)
        assert not train(**job).interrupted
        assert_close(straight, broken)


@pytest.mark.slow
def test_two_processes_stopped_and_resumed_are_bit_for_bit_themselves(tmp_path: Path) -> None:
    genome = list(write_genome(tmp_path))
    job: dict[str, Any] = {"objective": "genmd4", "genome": genome, "devices": 2}
    straight, broken = ({"run": f"{tmp_path}/{name}", **job} for name in ("straight", "broken"))
    jobs = [straight, {**broken, "stop_at": 2}, broken]
    assert train_on_several(jobs) == [0, 0]
    for name in ("straight", "broken"):
        (tmp_path / name / "samples").mkdir()
    assert_equal(contents(tmp_path / "straight"), contents(tmp_path / "broken"))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_both_processes_before_the_step(tmp_path: Path) -> None:
    genome = list(write_genome(tmp_path))
    job = {"run": str(tmp_path / "a"), "objective": "mdlm", "genome": genome, "devices": 2}
    codes = train_on_several([{**job, "poison_at": 3}])
    assert codes == [1, 1]
    last = read_checkpoint(tmp_path / "a" / "checkpoints" / "last.ckpt")
    assert last["global_step"] == 2
    assert all(value.isfinite().all() for value in last["state_dict"].values())
