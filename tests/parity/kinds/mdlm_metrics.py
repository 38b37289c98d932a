"""NLL, bits and perplexity of accumulated batches.

Generative perplexity (`gen_ppl`) is a metric of text samples under another model; it comes with
text.
"""

import math

from genodiff.diffusion import mean_nats
from tests.parity.cases import Case
from tests.parity.mdlm import assert_close


def check(case: Case) -> None:
    nats, weights = (case.arrays[name].flatten(0, 1) for name in ("nlls", "token_mask"))
    nats_per_token = mean_nats(nats, weights)
    assert_close(nats_per_token, case.arrays["nll"], atol=0, rtol=1e-5)
    assert_close(nats_per_token / math.log(2), case.arrays["bpd"], atol=0, rtol=1e-5)
    assert_close(nats_per_token.exp(), case.arrays["ppl"], atol=0, rtol=1e-5)
