"""CaduceusForSequenceClassification: logits by pooling and by strands, and the losses."""

import json

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from genodiff.backbones import Backbone, SequenceClassifier, StrandAveraged, load_caduceus_state
from tests.parity.cases import Case

_POOLINGS = ("mean", "max", "first", "last")


def check(case: Case) -> None:
    arrays = case.arrays
    config = json.loads(case.companion("_config.json").read_text(encoding="utf-8"))
    state = load_file(case.companion(".safetensors"))
    score = state.pop("score.weight")
    network = load_caduceus_state(config, state).eval()
    tokens = arrays["input_ids"]

    def logits(network: Backbone, pooling: str) -> Tensor:
        model = SequenceClassifier(network, config["num_labels"], pooling=pooling)
        model.load_state_dict({"score.weight": score}, strict=False)
        return model(tokens)

    checked = 0
    for pooling in _POOLINGS:
        _close(logits(network, pooling), arrays[f"logits_{pooling}_plain"])
        checked += 1
        for conjoined in ("conjoin", "posthoc"):
            if f"logits_{pooling}_{conjoined}" in arrays:
                both = StrandAveraged(network, _complement(tokens, arrays["rc_input_ids"]))
                _close(logits(both, pooling), arrays[f"logits_{pooling}_{conjoined}"])
                checked += 1
    if "logits_mean_posthoc_trainmode" in arrays:
        _close(logits(network, "mean"), arrays["logits_mean_posthoc_trainmode"])
        checked += 1
    assert checked == sum(name.startswith("logits_") for name in arrays)

    mean, labels = logits(network, "mean"), arrays["labels"]
    loss = (
        F.mse_loss(mean[:, 0], labels.float())
        if config["num_labels"] == 1
        else F.cross_entropy(mean, labels)
    )
    torch.testing.assert_close(loss, arrays["loss_mean_plain"], atol=0, rtol=1e-5)
    if "loss_multilabel" in arrays:
        loss = F.binary_cross_entropy_with_logits(mean, arrays["labels_multilabel"])
        torch.testing.assert_close(loss, arrays["loss_multilabel"], atol=0, rtol=1e-5)


def _complement(tokens: Tensor, reverse_complement: Tensor) -> list[int]:
    """The complement of each token that occurs, from what was done to the tokens."""
    opposite = reverse_complement.flip(1).flatten().tolist()
    known = dict(zip(tokens.flatten().tolist(), opposite, strict=True))
    return [known.get(i, i) for i in range(max(known) + 1)]


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
