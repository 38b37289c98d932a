"""Mamba's mixer alone, and in two directions."""

import torch
from safetensors.torch import load_file
from torch import nn

from genodiff.backbones import BiMamba, Mamba
from genodiff.backbones.pretrained import caduceus_names
from tests.parity.cases import Case


def check(case: Case) -> None:
    config = case.config
    d_model = config["d_model"]
    sizes = {name: config[name] for name in ("d_state", "d_conv", "expand")}
    mixers = {
        "mamba": Mamba(d_model, **sizes),
        "bi_add_tied": BiMamba(d_model, strategy="add", tie_projections=True, **sizes),
        "bi_mul_untied": BiMamba(d_model, strategy="ew_multiply", tie_projections=False, **sizes),
    }
    state = load_file(case.companion(".safetensors"))
    for name, mixer in mixers.items():
        mixer.load_state_dict(_of_ours(mixer, name, state))
        expected = case.arrays[f"{name}_out"]
        torch.testing.assert_close(mixer(case.arrays["x"]), expected, atol=1e-5, rtol=1e-5)


def _of_ours(
    mixer: nn.Module, case_name: str, state: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors of one mixer by our names, in our shapes."""
    own = mixer.state_dict()
    names = caduceus_names([f"blocks.0.mixer.{name}" for name in own], rcps=False, fused=False)
    published = {}
    for name, tensor in own.items():
        theirs = names[f"blocks.0.mixer.{name}"][0].removeprefix(
            "caduceus.backbone.layers.0.mixer."
        )
        if isinstance(mixer, Mamba):
            theirs = theirs.removeprefix("mamba_fwd.")
        published[name] = state[f"{case_name}.{theirs}"].reshape(tensor.shape)
    return published
