"""The C kernels of `native/` behind ctypes: float32, CPU, channel-last, differentiable.

The library is built by `hatch_build.py`, where there was a C compiler. Threads of a pool of ours run one call
together (ctypes releases the GIL); each takes the next task from a shared counter. Sums are cut by shape alone, so
results are the same bit for bit for any number of threads.
"""

import ctypes
import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

MAX_STATES = 256
MAX_WIDTH = 8

# How the work is cut, by shape alone: a task is one sequence and a group of channels, which walks through time in
# chunks. The scan's backward pass needs larger groups, because each writes partial sums of dB and dC.
_GROUP = 64
_BACKWARD_GROUP = 128
_CHUNK = 32
_CONV_CHUNK = 64
_WIDEST_VECTOR = 16
# Below this many multiply-adds a call is over before a second thread has woken up.
_WORTH_A_THREAD = 1 << 20

_DIRECTORY = Path(__file__).parent / "native"


def scan_obstacle(dtype: torch.dtype, device: torch.device, states: int) -> str | None:
    """Why the scan cannot run on such inputs and what to do about it, or None."""
    if states > MAX_STATES:
        return f"A has {states} states and it takes {MAX_STATES} at most; use implementation='chunked'"
    return _obstacle(dtype, device)


def conv_obstacle(dtype: torch.dtype, device: torch.device, width: int) -> str | None:
    """Why the convolution cannot run on such inputs and what to do about it, or None."""
    if width > MAX_WIDTH:
        return f"the weight has {width} taps and it takes {MAX_WIDTH} at most; use implementation='chunked'"
    return _obstacle(dtype, device)


def _obstacle(dtype: torch.dtype, device: torch.device) -> str | None:
    if device.type != "cpu":
        return f"it needs CPU tensors and these are on {device}; use implementation='auto'"
    if dtype != torch.float32:
        return f"it computes in float32 and these are {dtype}; use implementation='chunked'"
    if library() is None:
        return (
            f"no library for this processor in {_DIRECTORY}; reinstall genodiff where a C compiler (cc, gcc or clang) "
            "is on PATH, or use implementation='chunked'"
        )
    return None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The build that this CPU runs best, or None where there is none."""
    baseline = _open("kernels_x86_64_v2.so")
    if baseline is None:
        return _open("kernels_generic.so")
    level = baseline.cpu_level()
    for wanted in (4, 3, 2):
        if level >= wanted and (found := _open(f"kernels_x86_64_v{wanted}.so")) is not None:
            return found
    return None


def _open(name: str) -> ctypes.CDLL | None:
    path = _DIRECTORY / name
    try:
        return ctypes.CDLL(str(path)) if path.exists() else None
    except OSError:  # built for another platform
        return None


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    reverse: bool,
) -> Tensor:
    return _Scan.apply(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse)  # pyright: ignore[reportReturnType]


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Literal["silu"] | None,
    reverse: bool,
) -> Tensor:
    return _Conv.apply(x, weight, bias, activation == "silu", reverse)  # pyright: ignore[reportReturnType]


class _Rows(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("batch", ctypes.c_int64), ("row", ctypes.c_int64)]


class _ScanArguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "length", "channels", "states")),
        *((name, ctypes.c_int64) for name in ("group", "chunk", "reverse", "delta_softplus")),
        *((name, _Rows) for name in ("u", "delta", "z", "B", "C")),
        *((name, ctypes.c_void_p) for name in ("A", "D", "delta_bias", "out", "checkpoints")),
        ("next_task", ctypes.c_void_p),
    ]


class _ScanGradients(ctypes.Structure):
    _fields_ = [
        ("dout", _Rows),
        *((name, ctypes.c_void_p) for name in ("du", "ddelta", "dz", "dB", "dC", "dA", "dD", "ddelta_bias")),
    ]


class _ConvArguments(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("batch", "length", "channels", "taps")),
        *((name, ctypes.c_int64) for name in ("group", "chunk", "reverse", "silu")),
        ("x", _Rows),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "out", "next_task")),
    ]


class _ConvGradients(ctypes.Structure):
    _fields_ = [("dout", _Rows), *((name, ctypes.c_void_p) for name in ("dx", "dweight", "dbias"))]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse):
        u, delta, B, C = (_with_rows(x) for x in (u, delta, B, C))
        z = None if z is None else _with_rows(z)
        A = A.contiguous()
        D, delta_bias = (None if x is None else x.contiguous() for x in (D, delta_bias))
        b, l, d = u.shape
        out = torch.empty_like(u, memory_format=torch.contiguous_format)
        checkpoints = None
        if any(ctx.needs_input_grad):
            padded = _ceil(d, _WIDEST_VECTOR) * _WIDEST_VECTOR
            checkpoints = u.new_empty(b, _ceil(l, _CHUNK), padded * A.shape[1])
            ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, checkpoints)
            ctx.delta_softplus, ctx.reverse = delta_softplus, reverse
        inputs = (u, delta, A, B, C, D, z, delta_bias)
        arguments = _scan_arguments(*inputs, out, checkpoints, delta_softplus, reverse, _GROUP)
        _run("selective_scan_forward", arguments, None, b * _ceil(d, _GROUP), u.numel() * A.shape[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        u, delta, A, B, C, D, z, delta_bias, checkpoints = ctx.saved_tensors
        dout = _with_rows(dout)
        (b, l, d), n, groups = u.shape, A.shape[1], _ceil(u.shape[2], _BACKWARD_GROUP)
        du, ddelta, dz = (None if x is None else u.new_empty(b, l, d) for x in (u, delta, z))
        dB, dC = (u.new_empty(groups, b, l, n) for _ in "BC")
        dA, dD, ddelta_bias = u.new_empty(b, d, n), u.new_empty(b, d), u.new_empty(b, d)
        results = (du, ddelta, dz, dB, dC, dA, dD, ddelta_bias)
        inputs = (u, delta, A, B, C, D, z, delta_bias)
        arguments = _scan_arguments(*inputs, None, checkpoints, ctx.delta_softplus, ctx.reverse, _BACKWARD_GROUP)
        gradients = _ScanGradients(_rows(dout), *map(_pointer, results))
        _run("selective_scan_backward", arguments, gradients, b * groups, 3 * u.numel() * n)
        return (
            du,
            ddelta,
            _sum_in_order(dA),
            _sum_in_order(dB),
            _sum_in_order(dC),
            None if D is None else _sum_in_order(dD),
            dz,
            None if delta_bias is None else _sum_in_order(ddelta_bias),
            None,
            None,
        )


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, silu, reverse):
        x, weight = _with_rows(x), weight.contiguous()
        bias = None if bias is None else bias.contiguous()
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        ctx.save_for_backward(x, weight, bias)
        ctx.silu, ctx.reverse = silu, reverse
        arguments = _conv_arguments(x, weight, bias, out, silu, reverse)
        tasks = x.shape[0] * _ceil(x.shape[2], _GROUP)
        _run("causal_conv1d_forward", arguments, None, tasks, x.numel() * weight.shape[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        x, weight, bias = ctx.saved_tensors
        dout = _with_rows(dout)
        b, _, d = x.shape
        dx, dweight, dbias = x.new_empty(x.shape), x.new_empty(b, *weight.shape), x.new_empty(b, d)
        arguments = _conv_arguments(x, weight, bias, None, ctx.silu, ctx.reverse)
        gradients = _ConvGradients(_rows(dout), *map(_pointer, (dx, dweight, dbias)))
        work = 3 * x.numel() * weight.shape[1]
        _run("causal_conv1d_backward", arguments, gradients, b * _ceil(d, _GROUP), work)
        return dx, _sum_in_order(dweight), None if bias is None else _sum_in_order(dbias), None, None


def _scan_arguments(u, delta, A, B, C, D, z, delta_bias, out, checkpoints, delta_softplus, reverse, group):
    return _ScanArguments(
        *(*u.shape, A.shape[1]),
        *(group, _CHUNK, reverse, delta_softplus),
        *map(_rows, (u, delta, z, B, C)),
        *map(_pointer, (A, D, delta_bias, out, checkpoints)),
    )


def _conv_arguments(x, weight, bias, out, silu, reverse):
    sizes = (*x.shape, weight.shape[1], _GROUP, _CONV_CHUNK, reverse, silu)
    return _ConvArguments(*sizes, _rows(x), *map(_pointer, (weight, bias, out)))


def _run(function: str, arguments: Any, gradients: Any, tasks: int, work: int) -> None:
    """Let up to torch's number of threads, this one among them, take the tasks of one call."""
    kernel: Callable[..., int] = getattr(library(), function)
    next_task = ctypes.c_int64(0)
    arguments.next_task = ctypes.addressof(next_task)
    pointers = [ctypes.byref(part) for part in (arguments, gradients) if part is not None]
    threads = max(1, min(torch.get_num_threads(), tasks, work // _WORTH_A_THREAD))
    if threads == 1:
        failures = [kernel(*pointers)]
    else:
        pool = _pool(os.getpid(), torch.get_num_threads() - 1)
        others = [pool.submit(kernel, *pointers) for _ in range(threads - 1)]
        failures = [kernel(*pointers), *(other.result() for other in others)]
    if any(failures):
        raise MemoryError(f"{function}: no memory for the kernel's scratch space; use a smaller batch")


@functools.lru_cache(maxsize=1)
def _pool(process_id: int, threads: int) -> ThreadPoolExecutor:
    """The worker threads of this process: a forked child has none of its parent's, so it makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"genodiff-{process_id}")


def _with_rows(x: Tensor) -> Tensor:
    """x with a contiguous last axis, the only layout rule of the kernels."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _rows(x: Tensor | None) -> _Rows:
    return _Rows() if x is None else _Rows(x.data_ptr(), x.stride(0), x.stride(1))


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _sum_in_order(partial: Tensor) -> Tensor:
    """Sum over the first axis, always in the same order (torch's sum may split it between threads)."""
    return functools.reduce(torch.add, partial.unbind(0))


def _ceil(x: int, divisor: int) -> int:
    return -(-x // divisor)
