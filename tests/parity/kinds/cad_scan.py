"""The selective scan: mamba-ssm's `selective_scan_ref`, against every implementation here."""

from typing import get_args

import torch
from torch import Tensor

from genodiff.errors import UserError
from genodiff.ops import Implementation, selective_scan
from genodiff.ops._reference import scan_with_state
from tests.parity.cases import Case


def check(case: Case) -> None:
    arrays = case.arrays
    u, delta, z, B, C = (
        arrays[name].transpose(1, 2) for name in ("u", "delta", "z", "Bmat", "Cmat")
    )
    A, D, bias = arrays["A"], arrays["Dskip"], arrays["delta_bias"]
    softplus = case.config["delta_softplus"]
    ran = set()
    for name in get_args(Implementation):
        try:
            out = selective_scan(
                u, delta, A, B, C, D, z, bias, delta_softplus=softplus, implementation=name
            )
            plain = selective_scan(u, delta, A, B, C, delta_softplus=softplus, implementation=name)
        except UserError:  # not on this machine
            continue
        ran.add(name)
        _close(out, arrays["out"].transpose(1, 2))
        _close(plain, arrays["out_plain"].transpose(1, 2))
    assert {"auto", "chunked", "reference"} <= ran
    scanned = scan_with_state(u, delta, A, B, C, D, z, bias, softplus, reverse=False)
    _close(scanned.last_state, arrays["last_state"])


def _close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
