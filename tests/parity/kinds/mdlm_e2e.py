"""DiT inside MDLM's loss, and the gradient of every parameter."""

import torch
from safetensors.torch import load_file

from genodiff.backbones import load_dit_state
from genodiff.backbones.pretrained import dit_names
from genodiff.diffusion import (
    Absorbing,
    AntitheticTimes,
    ContinuousNelbo,
    LogLinear,
    NetworkDenoiser,
    Subs,
)
from genodiff.diffusion.times import stratify
from tests.parity.cases import Case


def check(case: Case) -> None:
    arrays, config = case.arrays, case.config
    expected = {"parameterization": "subs", "T": 0, "antithetic_sampling": True}
    assert {key: config[key] for key in expected} == expected
    assert config["noise"]["type"] == "loglinear"
    vocab_size, mask_id = config["vocab_size"], config["mask_index"]
    network = load_dit_state(
        {**config["model"], "vocab_size": vocab_size}, load_file(case.companion(".safetensors"))
    ).eval()
    process = Absorbing(LogLinear(), vocab_size, mask_id)
    model = NetworkDenoiser(
        network, process, Subs(vocab_size, mask_id), config["time_conditioning"]
    )
    times = AntitheticTimes(t_min=config["sampling_eps"], average=True)
    u = stratify(arrays["u_t"][:, None].double())
    t, _ = times.at(process.schedule, u)
    x_t = process.mask(arrays["x0"], arrays["u_move"] < process.schedule.mask_rate(t))

    nats = ContinuousNelbo().at(model, arrays["x0"], x_t, t) * arrays["attention_mask"]
    torch.testing.assert_close(nats, arrays["nlls"], atol=1e-5, rtol=2e-4)
    loss = nats.sum() / arrays["attention_mask"].sum()
    torch.testing.assert_close(loss, arrays["loss"], atol=0, rtol=1e-5)

    loss.backward()
    names = dit_names(network.state_dict())
    gradients = {
        names[name][0]: parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }
    assert set(gradients) == set(config["parameter_names"])
    norms = torch.stack([gradients[name].norm() for name in config["parameter_names"]])
    torch.testing.assert_close(norms, arrays["grad_norms"], atol=1e-5, rtol=2e-4)
    for key, name in (
        ("grad_vocab_embed", "vocab_embed.embedding"),
        ("grad_out_linear_weight", "output_layer.linear.weight"),
        ("grad_block0_qkv", "blocks.0.attn_qkv.weight"),
        ("grad_block0_adaLN_bias", "blocks.0.adaLN_modulation.bias"),
    ):
        torch.testing.assert_close(gradients[name], arrays[key], atol=1e-5, rtol=2e-4)
