"""Weights, gradients, averages and optimizer states cut into shares, for a model that does not fit
on a device: FSDP (Zhao et al. 2023, arXiv:2304.11277), as PyTorch's `fully_shard` does it.

Each block of a network, the members of its `ModuleList`s, is gathered when it is its turn, and
everything else at once. What resumes a run is saved in shares, and read as whole tensors: any
strategy, on any number of processes, goes on from it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.utils._pytree import tree_map

from genodiff.errors import UserError
from genodiff.ranks import Ranks
from genodiff.training.shares import Share


class ShardedStrategy(DDPStrategy):
    """The processes of DDP, each with its share of everything that belongs to a parameter."""

    def model_to_device(self) -> None:
        """Nothing: shares are moved, and not the whole."""

    def configure_ddp(self) -> None:
        """Cuts the module into shares. Raises UserError if a parameter has no axis to cut."""
        module = self.model
        assert module is not None
        marks = {name: vars(parameter).copy() for name, parameter in module.named_parameters()}
        for name, parameter in module.named_parameters():
            if parameter.ndim == 0:
                raise UserError(
                    f"trainer.strategy=fsdp cannot cut {name}, a single number, into shares; use "
                    "trainer.strategy=ddp for this model."
                )
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        for part in list(module.modules()):
            if isinstance(part, nn.ModuleList):
                for block in part:
                    fully_shard(block, mesh=mesh)
        fully_shard(module, mesh=mesh)
        module.to(self.root_device)  # buffers
        for name, parameter in module.named_parameters():
            vars(parameter).update(marks[name])  # such as that it is free of weight decay

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None
    ) -> None:
        """Saves what resumes a run in shares, and weights alone in one file of the first process,
        which has them whole on the CPU for that."""
        if "optimizer_states" in checkpoint:
            self.checkpoint_io.save_checkpoint(
                tree_map(_share, checkpoint),
                filepath,
                storage_options=Ranks(self.global_rank, self.world_size),
            )
        else:
            super().save_checkpoint(tree_map(self._gathered, checkpoint), filepath)

    def load_optimizer_state_dict(self, checkpoint: Any) -> None:
        """Takes this process' share of whole states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            shares = {
                index: {
                    name: share_like(value, parameters[index])
                    if isinstance(value, Tensor) and value.shape == parameters[index].shape
                    else value
                    for name, value in values.items()
                }
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": shares})

    def _gathered(self, leaf: Any) -> Any:
        """A whole tensor on the first process, and on the others, which take part, nothing."""
        if not isinstance(leaf, Tensor):
            return leaf
        tensor = whole(leaf)
        return tensor.cpu() if self.is_global_zero else None


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which all processes have a share; one that is whole already as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def share_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The share of a whole tensor that this process has of `parameter`, where that is."""
    tensor = tensor.to(parameter.device)
    if not isinstance(parameter, DTensor):
        return tensor
    # Every process has the same tensor: no need to ask the first.
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """While it lasts, what is outside the blocks is whole; blocks are when they are called."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.unshard()
    try:
        yield
    finally:
        module.reshard()


@contextmanager
def kept_apart(module: FSDPModule) -> Iterator[None]:
    """While it lasts, gradients stay in their process."""
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def _share(leaf: Any) -> Any:
    """What this process has of a tensor that was cut; all else as it is."""
    if not isinstance(leaf, DTensor):
        return leaf
    (placement,) = leaf.placements
    assert isinstance(placement, Shard)
    return Share(leaf.to_local(), placement.dim)
