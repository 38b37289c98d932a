"""Which implementations the tests can run on this machine's CPU."""

from typing import Literal

import pytest

from genodiff.ops import _native

Cpu = Literal["native", "chunked", "reference"]

HAS_KERNELS = _native.library() is not None
FAST: list[Cpu] = ["native", "chunked"] if HAS_KERNELS else ["chunked"]
ALL: list[Cpu] = [*FAST, "reference"]

needs_kernels = pytest.mark.skipif(
    not HAS_KERNELS, reason="the C kernels are not built: python hatch_build.py"
)
