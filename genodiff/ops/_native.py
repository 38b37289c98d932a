"""The C kernels of `native/` behind ctypes: float32, on CPU, channel-last, differentiable once.

`hatch_build.py` compiles the libraries, where there is a C compiler. ctypes releases the GIL, so
threads of a pool can run one call together, each taking the next task from a shared counter. Sums
are cut by shape alone: results are the same bit for bit for any number of threads.
"""

import ctypes
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# How work is cut: a task is one sequence and a group of channels, and goes through time in chunks.
# The scan's backward pass takes larger groups, because each writes partial sums of dB and dC.
_GROUP = 64
_BACKWARD_GROUP = 128
_CHUNK = 64
_CONV_CHUNK = 64
_WIDEST_VECTOR = 16
# A call with fewer multiply-adds is over before a second thread has woken up.
_WORTH_A_THREAD = 1 << 20

_DIRECTORY = Path(__file__).parent / "native"


def obstacle(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why the kernels cannot run on such inputs and what to do about it, or None."""
    if device.type != "cpu":
        return f"it needs the CPU and the tensors are on {device}; use 'auto'"
    if dtype != torch.float32:
        return f"it computes in float32 and the tensors are {dtype}; use 'chunked'"
    if library() is None:
        return (
            f"{_DIRECTORY} holds no library for this processor; reinstall genodiff with a C "
            "compiler (cc, gcc or clang) on PATH, or use 'chunked'"
        )
    return None


@functools.cache
def library() -> ctypes.CDLL | None:
    """The best build for this processor, or None where there is none."""
    baseline = _open("kernels_x86_64_v2.so")
    if baseline is None:
        return _open("kernels_generic.so")
    level = baseline.cpu_level()
    builds = (_open(f"kernels_x86_64_v{wanted}.so") for wanted in (4, 3, 2) if wanted <= level)
    return next((build for build in builds if build is not None), None)


def _open(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(_DIRECTORY / name))
    except OSError:  # not there, or built for another platform
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
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    return _Scan.apply(*inputs, delta_softplus, reverse, torch.is_grad_enabled())  # pyright: ignore[reportReturnType]


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, reverse: bool
) -> Tensor:
    return _Conv.apply(x, weight, bias, silu, reverse)  # pyright: ignore[reportReturnType]


def _fields(type_: Any, *names: str) -> list[tuple[str, Any]]:
    return [(name, type_) for name in names]


class _Rows(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *_fields(ctypes.c_int64, "batch", "row")]


class _ScanArguments(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_int64, "batch", "length", "channels", "states"),
        *_fields(ctypes.c_int64, "group", "chunk", "reverse", "delta_softplus"),
        *_fields(_Rows, "u", "delta", "z", "B", "C"),
        *_fields(ctypes.c_void_p, "A", "D", "delta_bias", "out", "checkpoints", "next_task"),
    ]


class _ScanGradients(ctypes.Structure):
    _fields_ = [
        ("dout", _Rows),
        *_fields(ctypes.c_void_p, "du", "ddelta", "dz", "dB", "dC", "dA", "dD", "ddelta_bias"),
    ]


class _ConvArguments(ctypes.Structure):
    _fields_ = [
        *_fields(ctypes.c_int64, "batch", "length", "channels", "taps"),
        *_fields(ctypes.c_int64, "group", "chunk", "reverse", "silu"),
        ("x", _Rows),
        *_fields(ctypes.c_void_p, "weight", "bias", "out", "next_task"),
    ]


class _ConvGradients(ctypes.Structure):
    _fields_ = [("dout", _Rows), *_fields(ctypes.c_void_p, "dx", "dweight", "dbias")]


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u, delta, A, B, C, D, z, delta_bias, delta_softplus, reverse, grad_enabled
    ):
        u, delta, B, C = map(_with_rows, (u, delta, B, C))
        z = None if z is None else _with_rows(z)
        A = A.contiguous()
        D, delta_bias = map(_contiguous, (D, delta_bias))
        (b, l, d), n = u.shape, A.shape[1]
        out, checkpoints = u.new_empty(b, l, d), None
        if grad_enabled and any(ctx.needs_input_grad):
            lanes = _WIDEST_VECTOR * _ceil(d, _WIDEST_VECTOR)
            checkpoints = u.new_empty(b, _ceil(l, _CHUNK), lanes, n)
            ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, checkpoints)
            ctx.options = (delta_softplus, reverse)
        arguments = _ScanArguments(
            *(b, l, d, n, _GROUP, _CHUNK, reverse, delta_softplus),
            *map(_rows, (u, delta, z, B, C)),
            *map(_pointer, (A, D, delta_bias, out, checkpoints)),
        )
        alive = (u, delta, A, B, C, D, z, delta_bias, out, checkpoints)
        _run("selective_scan_forward", (arguments,), alive, b * _ceil(d, _GROUP), b * l * d * n)
        return out

    @staticmethod
    @once_differentiable  # its type hides the names of the parameters:
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        u, delta, A, B, C, D, z, delta_bias, checkpoints = ctx.saved_tensors
        delta_softplus, reverse = ctx.options
        dout = _with_rows(*grad_outputs)
        (b, l, d), n = u.shape, A.shape[1]
        groups = _ceil(d, _BACKWARD_GROUP)
        du, ddelta = u.new_empty(b, l, d), u.new_empty(b, l, d)
        dz = None if z is None else u.new_empty(b, l, d)
        dB, dC = u.new_empty(groups, b, l, n), u.new_empty(groups, b, l, n)
        dA, dD, ddelta_bias = u.new_empty(b, d, n), u.new_empty(b, d), u.new_empty(b, d)
        results = (du, ddelta, dz, dB, dC, dA, dD, ddelta_bias)
        arguments = _ScanArguments(
            *(b, l, d, n, _BACKWARD_GROUP, _CHUNK, reverse, delta_softplus),
            *map(_rows, (u, delta, z, B, C)),
            *map(_pointer, (A, D, delta_bias, None, checkpoints)),
        )
        gradients = _ScanGradients(_rows(dout), *map(_pointer, results))
        alive = (u, delta, A, B, C, D, z, delta_bias, checkpoints, dout, *results)
        _run("selective_scan_backward", (arguments, gradients), alive, b * groups, b * l * d * n)
        dA, dB, dC = map(_sum_in_order, (dA, dB, dC))
        dD = None if D is None else _sum_in_order(dD)
        ddelta_bias = None if delta_bias is None else _sum_in_order(ddelta_bias)
        return du, ddelta, dA, dB, dC, dD, dz, ddelta_bias, None, None, None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x, weight, bias, silu, reverse):
        x, weight, bias = _with_rows(x), weight.contiguous(), _contiguous(bias)
        out = x.new_empty(x.shape)
        ctx.save_for_backward(x, weight, bias)
        ctx.options = (silu, reverse)
        (b, l, d), width = x.shape, weight.shape[1]
        sizes = (b, l, d, width, _GROUP, _CONV_CHUNK, reverse, silu)
        arguments = _ConvArguments(*sizes, _rows(x), *map(_pointer, (weight, bias, out)))
        alive = (x, weight, bias, out)
        _run("causal_conv1d_forward", (arguments,), alive, b * _ceil(d, _GROUP), b * l * d * width)
        return out

    @staticmethod
    @once_differentiable  # its type hides the names of the parameters:
    def backward(ctx: Any, *grad_outputs: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, bias = ctx.saved_tensors
        silu, reverse = ctx.options
        dout = _with_rows(*grad_outputs)
        (b, l, d), width = x.shape, weight.shape[1]
        dx, dweight, dbias = x.new_empty(b, l, d), x.new_empty(b, d, width), x.new_empty(b, d)
        sizes = (b, l, d, width, _GROUP, _CONV_CHUNK, reverse, silu)
        arguments = _ConvArguments(*sizes, _rows(x), *map(_pointer, (weight, bias, None)))
        gradients = _ConvGradients(_rows(dout), *map(_pointer, (dx, dweight, dbias)))
        alive = (x, weight, bias, dout, dx, dweight, dbias)
        tasks = b * _ceil(d, _GROUP)
        _run("causal_conv1d_backward", (arguments, gradients), alive, tasks, b * l * d * width)
        return (
            dx,
            _sum_in_order(dweight),
            None if bias is None else _sum_in_order(dbias),
            None,
            None,
        )


def _run(
    function: str, structures: tuple[Any, ...], alive: tuple[Any, ...], tasks: int, work: int
) -> None:
    """Run one call in as many threads as torch uses, this one among them.

    `alive` is what the structures point to: an interrupt can end this thread's part while others
    still run theirs.
    """
    kernel = getattr(library(), function)
    next_task = ctypes.c_int64(0)
    structures[0].next_task = ctypes.addressof(next_task)
    pointers = [ctypes.byref(structure) for structure in structures]

    def take_tasks(*_alive: Any) -> int:
        return kernel(*pointers)

    threads = min(torch.get_num_threads(), tasks, max(1, work // _WORTH_A_THREAD))
    others = []
    if threads > 1:
        pool = _pool(os.getpid(), torch.get_num_threads() - 1)
        others = [pool.submit(take_tasks, next_task, alive) for _ in range(threads - 1)]
    failures = [take_tasks(), *(other.result() for other in others)]
    if any(failures):
        raise MemoryError(f"{function} found no memory for its scratch space; use a smaller batch")


@functools.lru_cache(maxsize=1)
def _pool(process_id: int, threads: int) -> ThreadPoolExecutor:
    """Worker threads of this process: a fork has none of its parent's, and makes its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"genodiff-ops-{process_id}")


def _with_rows(x: Tensor) -> Tensor:
    """x with a contiguous last axis, the kernels' only wish about the layout."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _rows(x: Tensor | None) -> _Rows:
    return _Rows() if x is None else _Rows(x.data_ptr(), x.stride(0), x.stride(1))


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _sum_in_order(partial: Tensor) -> Tensor:
    """Sum over the first axis, always in the same order; torch's may split it between threads."""
    return functools.reduce(torch.add, partial.unbind(0))


def _ceil(x: int, divisor: int) -> int:
    return -(-x // divisor)
