"""Compiles the Triton kernels for a GPU, which need not be there, and prints what they use.

    python -m tests.ops.compile_triton 90        # sm_90: lines of kernel, dtype, registers, stack

A kernel that spills registers has a stack. Triton must not be interpreting.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from genodiff.ops import _triton_conv, _triton_scan
from genodiff.ops._triton_rows import Rows

_INTEGERS = ("length", "channels", "states", "segments", "segment_steps", "batches")
_ROWS = ("u", "delta", "B", "C", "z", "out", "dout", "du", "x", "dx")
_SCAN = {"SOFTPLUS": True, "BLOCK_N": 16}
_CONV = {"WIDTH": 4, "SILU": True}
_NO_GATE = {"z": None, "dz": None}
# Each with the arguments that are known at compile time.
_KERNELS: list[tuple[Any, dict[str, Any]]] = [
    (_triton_scan.forward_kernel, _SCAN | {"ends": None, "totals": None}),
    (_triton_scan.forward_kernel, _SCAN | dict.fromkeys(("out", "starts", "checkpoints"))),
    (_triton_scan.adjoint_kernel, _SCAN),
    (_triton_scan.chain_kernel, {"BLOCK_N": 16, "BACKWARD": True}),
    (_triton_scan.backward_kernel, _SCAN),
    (_triton_scan.backward_kernel, _SCAN | _NO_GATE),
    (_triton_conv.forward_kernel, _CONV),
    (_triton_conv.backward_kernel, _CONV),
]


def compiled(kernel: Any, constants: dict[str, Any], dtype: str, capability: int) -> bytes:
    """The machine code, for pointers and sizes that are multiples of 16, as they mostly are."""

    def type_of(name: str) -> Any:
        if name in constants:
            return "constexpr"
        if name in _INTEGERS:
            return "i32"
        if name in _ROWS:
            return Rows(f"*{dtype}", "i32", "i32")
        if name in ("A", "dB"):
            return Rows("*fp32", "i32", "i32")
        return f"*{dtype}" if name in ("ddelta", "dz") else "*fp32"

    signature = {name: type_of(name) for name in kernel.arg_names}
    places = {name: i for i, name in enumerate(kernel.arg_names)}
    aligned = [["tt.divisibility", 16]]
    source = ASTSource(
        kernel,
        signature,
        {(places[name],): value for name, value in constants.items()},
        {
            path: aligned
            for name, type_ in signature.items()
            if type_ != "constexpr" and name not in ("length", "segments", "batches")
            for path in (
                [(places[name], k) for k in range(3)]
                if isinstance(type_, tuple)
                else [(places[name],)]
            )
        },
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": 1}).asm["cubin"]


def main(capability: int) -> None:
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        for kernel, constants in _KERNELS:
            for dtype in ("fp32", "bf16"):
                known = {k: v for k, v in constants.items() if k in kernel.arg_names}
                cubin.write_bytes(compiled(kernel, known, dtype, capability))
                usage = subprocess.run(
                    [cuobjdump, "-res-usage", cubin], capture_output=True, text=True, check=True
                ).stdout
                found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
                assert found is not None, usage
                print(kernel.__module__, kernel.__name__, dtype, *found.groups())


if __name__ == "__main__":
    main(int(sys.argv[1]))
