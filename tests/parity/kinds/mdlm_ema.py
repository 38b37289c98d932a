"""The exponential moving average, update by update, with a frozen parameter in between."""

import torch
from torch import nn

from genodiff.training.ema import ExponentialMovingAverage
from tests.parity.cases import Case
from tests.parity.mdlm import assert_close


def check(case: Case) -> None:
    arrays = case.arrays
    p0, p1 = (nn.Parameter(arrays[name].clone()) for name in ("init0", "init1"))
    frozen = nn.Parameter(torch.ones(4), requires_grad=False)
    ema = ExponentialMovingAverage(
        [p0, frozen, p1], decay=case.config["decay"], warmup=case.config["use_num_updates"]
    )
    for k, decay in enumerate(arrays["decay_used"].tolist()):
        with torch.no_grad():
            p0.copy_(arrays["params0"][k])
            p1.copy_(arrays["params1"][k])
        assert abs(ema.next_decay() - decay) < 1e-6
        ema.update()
        average0, average1 = ema.state_dict()["shadow"]
        assert_close(average0, arrays["shadow0"][k], atol=1e-6, rtol=1e-6)
        assert_close(average1, arrays["shadow1"][k], atol=1e-6, rtol=1e-6)
    with ema.average_parameters():
        assert_close(p0.detach(), arrays["copied0"], atol=1e-6, rtol=1e-6)
    assert torch.equal(p0.detach(), arrays["params0"][-1])
