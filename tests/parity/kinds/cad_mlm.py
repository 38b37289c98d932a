"""CaduceusForMaskedLM: hidden states, logits, losses and the gradient of every parameter."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from genodiff.backbones import Backbone, ReverseComplementEquivariant, load_caduceus_state
from genodiff.backbones.pretrained import caduceus_names
from tests.parity.cases import Case


def check(case: Case) -> None:
    arrays = case.arrays
    config = json.loads(case.companion("_config.json").read_text(encoding="utf-8"))
    network = load_caduceus_state(config, load_file(case.companion(".safetensors"))).eval()
    inputs = _watch_inputs(network)
    tokens, labels, pad = arrays["input_ids"], arrays["labels"], config["pad_token_id"]

    hidden = network.hidden(tokens)
    _close(hidden, arrays["last_hidden_state"])
    n_layers = config["n_layer"]
    assert len(inputs) == n_layers + 1
    for i in range(n_layers):
        _close(inputs[i], arrays[f"hidden{i}"])
    if f"hidden{n_layers}" in arrays:
        _close(hidden, arrays[f"hidden{n_layers}"])
    logits = network.head(hidden)
    _close(logits, arrays["logits"])
    if isinstance(network, ReverseComplementEquivariant):
        assert network.complement.tolist() == arrays["complement_map"].tolist()
        _close(network(arrays["rc_input_ids"]), arrays["rc_logits"])

    nats = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=pad, reduction="none"
    )
    scored = (labels != pad).flatten()
    loss = nats.sum() / scored.sum()
    torch.testing.assert_close(loss, arrays["loss"], atol=0, rtol=1e-5)
    weights = arrays["loss_weights"].flatten() * scored
    torch.testing.assert_close(weights, arrays["loss_weights_after"].flatten(), atol=0, rtol=0)
    weighted = (nats * weights).sum() / weights.sum()
    torch.testing.assert_close(weighted, arrays["weighted_loss"], atol=0, rtol=1e-5)

    loss.backward()
    fused, rcps = config["fused_add_norm"], config["rcps"]
    names = caduceus_names(network.state_dict(), rcps=rcps, fused=fused)
    norms = {
        published: parameter.grad.norm()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
        for published in names[name]
    }
    actual = torch.stack([norms[name] for name in case.config["parameter_names"]])
    torch.testing.assert_close(actual, arrays["grad_norms"], atol=1e-5, rtol=5e-4)
    assert len(list(network.parameters())) == len(actual)


def _watch_inputs(network: Backbone) -> list[Tensor]:
    """A list that a forward pass fills with the input of every layer without the residual, and
    the last mixer's output; of both strands in the published layout."""
    seen: list[Tensor] = []

    def watch(module: nn.Module, inputs: object, output: Tensor) -> None:
        if isinstance(network, ReverseComplementEquivariant):
            given, opposite = output.chunk(2)
            output = torch.cat([given, opposite.flip(1, 2)], dim=-1)
        seen.append(output)

    for name, module in network.named_modules():
        if name.endswith("embedding") or name.endswith(".mixer"):
            module.register_forward_hook(watch)
    return seen


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=5e-5, rtol=1e-4)
