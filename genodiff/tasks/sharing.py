"""The processes of a command that shares its work: `devices=`, or what torchrun or SLURM began."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed
from lightning import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from genodiff.errors import UserError
from genodiff.ranks import ALONE, Ranks
from genodiff.training import cluster, processes_on

_PATIENCE = timedelta(days=30)
"""For processes that are slower: one that died is noticed at once, by its connection."""


@contextmanager
def sharing(
    devices: int | Literal["auto"], device: torch.device
) -> Iterator[tuple[Ranks, torch.device]]:
    """Starts the other processes, which come to the same point by the same command; yields this
    one's rank and device. If it fails, those that it has started end too.

    `devices`: of this machine; "auto" is all GPUs or, on a CPU, one process; under torchrun or
    SLURM as many as they have started. Raises UserError for a number that is not there.
    """
    if devices != "auto" and devices < 1:
        raise UserError(f"devices={devices} must be at least 1, or auto.")
    there = processes_on(devices, "auto", device, where="")
    if there.total == 1:
        yield ALONE, device
        return
    # Results are put together on the CPU, whatever they were made on.
    strategy = DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
    fabric = Fabric(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=there.per_node,
        num_nodes=there.nodes,
        strategy=strategy,
        plugins=cluster(),
    )
    fabric.launch()
    try:
        yield Ranks(fabric.global_rank, fabric.world_size), fabric.device
    except BaseException:
        for process in getattr(strategy.launcher, "procs", ()):
            process.kill()
        raise
    finally:
        torch.distributed.destroy_process_group()
