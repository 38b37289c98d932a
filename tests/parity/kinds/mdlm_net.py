"""MDLM's networks: DiT, the autoregressive transformer and DiMamba, block by block."""

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genodiff.backbones import load_dimamba_state, load_dit_state
from tests.parity.cases import Case


def check(case: Case) -> None:
    arrays, config = case.arrays, case.config
    load = load_dimamba_state if config["net"] == "dimamba" else load_dit_state
    published = {**config["model"], "vocab_size": config["vocab_size"]}
    network = load(published, load_file(case.companion(".safetensors"))).eval()
    blocks: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        blocks.append(output)

    for block in network.blocks:
        block.register_forward_hook(keep)
    if config["net"] == "ar":
        logits = network(arrays["tokens"])
        logits[..., config["mask_index"]] = -1000
        outputs = logits.log_softmax(-1)
    else:
        sigma = arrays["sigma"][:, None]
        assert network.time is not None
        _close(network.time(sigma)[:, 0], arrays["sigma_map"])
        outputs = network(arrays["tokens"], sigma)
    _close(outputs, arrays["logits"])
    assert len(blocks) == config["model"]["n_blocks"]
    for i, block in enumerate(blocks):
        _close(block, arrays[f"layer{i}" if config["net"] == "dimamba" else f"block{i}"])


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=1e-4)
