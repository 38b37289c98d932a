"""The processes that share a command's work, one a device: how many, and who starts them.

torchrun and SLURM (srun) start all of them, and say so in the environment. Otherwise the one that
the user has started starts the others of its machine, as Lightning does: each runs the same
command again.
"""

import os
from typing import Any, Literal, NamedTuple

import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from genodiff.errors import UserError


class Processes(NamedTuple):
    """How many there are."""

    nodes: int
    per_node: int

    @property
    def total(self) -> int:
        return self.nodes * self.per_node

    def share(self, batch_size: int) -> int:
        """Sequences of a batch for each. Raises UserError if they are not whole."""
        if batch_size % self.total:
            raise UserError(
                f"data.batch_size={batch_size} does not divide among {self.total} devices; give a "
                "multiple, or trainer.devices=."
            )
        return batch_size // self.total


def processes_on(
    devices: int | Literal["auto"],
    num_nodes: int | Literal["auto"],
    device: torch.device,
    *,
    where: str = "trainer.",
) -> Processes:
    """The processes of a run on devices of the kind of `device`; `where` the config asks for them.

    "auto" is what torchrun or SLURM has started; else one node, and all its GPUs or, on a CPU, one
    process. Raises UserError if other numbers were asked for than were started.
    """
    started, by = _started()
    if started is None:
        if num_nodes not in ("auto", 1):
            raise UserError(
                f"{where}num_nodes={num_nodes}: this process can start others on its own machine "
                "alone; start the run with srun, or with torchrun on every node."
            )
        every = torch.cuda.device_count() if device.type == "cuda" else 1
        return Processes(1, every if devices == "auto" else devices)
    for key, asked, there in (
        ("devices", devices, started.per_node),
        ("num_nodes", num_nodes, started.nodes),
    ):
        if asked not in ("auto", there):
            raise UserError(
                f"{where}{key}={asked}, but {by} has started {started.nodes} nodes of "
                f"{started.per_node} processes; leave it at auto, or have {by} start as many."
            )
    return started


def cluster() -> list[Any]:
    """SLURM, where it has started the processes, without Lightning's requeueing."""
    if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        return [SLURMEnvironment(auto_requeue=False)]
    return []


def _started() -> tuple[Processes | None, str]:
    """What torchrun or SLURM has started, and which of them."""
    if TorchElasticEnvironment.detect():
        per_node = int(os.environ["LOCAL_WORLD_SIZE"])
        return Processes(int(os.environ["WORLD_SIZE"]) // per_node, per_node), "torchrun"
    if SLURMEnvironment.detect():
        tasks, nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ.get("SLURM_NNODES", "1"))
        if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
            raise UserError(
                f"SLURM has started {tasks} tasks, not said how many a node; give it "
                f"--ntasks-per-node={tasks // nodes} in place of --ntasks={tasks}."
            )
        return Processes(nodes, tasks // nodes), "SLURM"
    return None, ""
