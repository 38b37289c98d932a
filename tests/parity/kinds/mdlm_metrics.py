"""NLL, bits and perplexity of accumulated batches, and generative perplexity under a judge that
sees one token back."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genodiff.diffusion import mean_nats
from genodiff.evaluation.generative_perplexity import published_counts, token_nats
from tests.parity.cases import Case
from tests.parity.mdlm import assert_close


def check(case: Case) -> None:
    nats, weights = (case.arrays[name].flatten(0, 1) for name in ("nlls", "token_mask"))
    nats_per_token = mean_nats(nats, weights)
    assert_close(nats_per_token, case.arrays["nll"], atol=0, rtol=1e-5)
    assert_close(nats_per_token / math.log(2), case.arrays["bpd"], atol=0, rtol=1e-5)
    assert_close(nats_per_token.exp(), case.arrays["ppl"], atol=0, rtol=1e-5)

    samples = list(case.arrays["samples"].numpy())
    judge = Bigram(case.arrays["lm_E"])
    per_token = token_nats(judge, samples, window=len(samples[0]), stride=1, batch_size=3)
    counted = [published_counts(row, case.config["eos_id"]) for row in samples]
    nats = np.concatenate([each[where] for each, where in zip(per_token, counted, strict=True)])
    gen_ppl = torch.tensor(nats.mean()).exp()
    assert_close(gen_ppl.float(), case.arrays["gen_ppl"], atol=0, rtol=1e-5)


class Bigram(nn.Module):
    """A causal language model whose logits are a row of a table."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(logits=self.table[input_ids])
