"""Networks compiled by torch.compile, block by block: elementwise work is fused, and one block's
code serves all others of its kind.

It pays for transformers, whose blocks are PyTorch's own operators. The scans and convolutions of
Mamba are kernels already, at which every graph would break.
"""

import torch
from torch import nn

from genodiff.backbones.mamba import SelectiveSSM
from genodiff.errors import UserError


def compile_blocks(network: nn.Module, device: torch.device) -> None:
    """Has the members of the `ModuleList`s of a network compiled, in place, at their first call.

    Raises UserError for a network of scans, and where nothing can be compiled for `device`.
    """
    if any(isinstance(part, SelectiveSSM) for part in network.modules()):
        raise UserError(
            "trainer.compile=true is for transformers: the scans of this network are kernels "
            "already; leave it out."
        )
    try:
        torch.compile(torch.neg)(torch.zeros(2, device=device))
    except Exception as error:  # a compiler that is missing or unfit may fail in any way
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(
            f"trainer.compile=true, but torch.compile fails for {device.type} here ({reason}); "
            "install a C++ compiler, or leave it out."
        ) from error
    for part in network.modules():
        if isinstance(part, nn.ModuleList):
            for block in part:
                block.compile()
