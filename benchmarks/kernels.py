"""Times the kernels of `genodiff.ops` on this CPU against their plain-torch definitions.

    python benchmarks/kernels.py --out kernels.json
    python benchmarks/kernels.py --lengths 32768 --repeats 3

All variants of a shape run in one process, in a new random order every round; a figure is the
median over rounds. On one thread the clock is the process's CPU time, which other users of the
machine disturb least; on several it is wall time.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import genodiff
from genodiff.ops import _native, causal_conv1d, selective_scan

D_INNER, D_STATE, WIDTH = 256, 16, 4
CASES = ("forward", "forward+backward")


class Variant(NamedTuple):
    """A function of the leaves, timed under a name, and the gradient of its output."""

    name: str
    run: Callable[[], Tensor]
    leaves: list[Tensor]
    dout: Tensor


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for length in arguments.lengths:
        shape = (max(1, arguments.tokens // length), length, D_INNER)
        for kernel, baseline, variants in (
            ("selective_scan", "published", scan_variants(shape, denormal=False)),
            ("selective_scan, decaying", "native", scan_variants(shape, denormal=True)),
            ("causal_conv1d", "nn.Conv1d", conv_variants(shape)),
        ):
            medians = time_variants(variants, arguments)
            rows += [
                {
                    "kernel": kernel,
                    "length": length,
                    "variant": name,
                    "case": case,
                    "milliseconds": 1e3 * seconds,
                    "speedup": medians[baseline, case] / seconds,
                    "baseline": baseline,
                }
                for (name, case), seconds in medians.items()
            ]
            print_table(rows[-len(medians) :])
    if arguments.out is not None:
        report = {"settings": settings(arguments), "rows": rows}
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 8192])
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch, if it is longer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument(
        "--seconds",
        type=float,
        default=60,
        help="a variant that has taken longer than this in all sits out the other rounds",
    )
    return parser.parse_args()


def scan_variants(shape: tuple[int, int, int], denormal: bool) -> list[Variant]:
    """Mamba's initial rates and steps; `denormal` lets one input decay for the whole length."""
    b, l, d = shape
    tensors = {
        "u": torch.randn(b, l, d),
        "delta": 0.5 * torch.randn(b, l, d) - 3,
        "A": -torch.arange(1.0, D_STATE + 1).repeat(d, 1),
        "B": torch.randn(b, l, D_STATE),
        "C": torch.randn(b, l, D_STATE),
        "D": torch.ones(d),
        "z": torch.randn(b, l, d),
        "delta_bias": torch.zeros(d),
    }
    if denormal:
        tensors["u"][:, 1:] = 0
    leaves = [tensor.requires_grad_() for tensor in tensors.values()]
    dout = torch.randn(b, l, d)

    def scan(implementation: Any) -> Callable[[], Tensor]:
        return lambda: selective_scan(*leaves, implementation=implementation)

    variants = [Variant(name, scan(name), leaves, dout) for name in ("native", "chunked")]
    if denormal:
        return variants
    published = Variant("published", lambda: published_scan(*leaves), leaves, dout)
    return [*variants, Variant("reference", scan("reference"), leaves, dout), published]


def published_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
) -> Tensor:
    """mamba-ssm's `selective_scan_ref`, step for step: what others run on a CPU.

    Channel-first in memory, as it is. Steps are unbound where it indexes them, which makes its
    backward pass quadratic in length.
    """
    u, delta, B, C, z = (x.mT.contiguous() for x in (u, delta, B, C, z))
    dt = F.softplus(delta + delta_bias.unsqueeze(1))
    decays = torch.exp(torch.einsum("bdl,dn->bdln", dt, A))
    inputs = torch.einsum("bdl,bnl,bdl->bdln", dt, B, u)
    h = torch.zeros_like(inputs[:, :, 0])
    outputs = []
    for decay, dtu_B, C_t in zip(decays.unbind(2), inputs.unbind(2), C.unbind(2), strict=True):
        h = decay * h + dtu_B
        outputs.append(torch.einsum("bdn,bn->bd", h, C_t))
    y = torch.stack(outputs, dim=2) + u * D.unsqueeze(1)
    return (y * F.silu(z)).mT


def conv_variants(shape: tuple[int, int, int]) -> list[Variant]:
    """Against nn.Conv1d as Mamba calls it, between two transpositions."""
    length = shape[1]
    module = nn.Conv1d(D_INNER, D_INNER, WIDTH, groups=D_INNER, padding=WIDTH - 1)
    x, weight, bias = torch.randn(shape).requires_grad_(), module.weight, module.bias
    assert bias is not None
    leaves = [x, weight, bias]
    dout = torch.randn(shape)

    def convolve(implementation: Any) -> Callable[[], Tensor]:
        return lambda: causal_conv1d(x, weight.squeeze(1), bias, implementation=implementation)

    def torch_module() -> Tensor:
        return F.silu(module(x.transpose(1, 2))[..., :length]).transpose(1, 2)

    names = ("native", "chunked", "reference")
    variants = [Variant(name, convolve(name), leaves, dout) for name in names]
    return [*variants, Variant("nn.Conv1d", torch_module, leaves, dout)]


def time_variants(
    variants: list[Variant], arguments: argparse.Namespace
) -> dict[tuple[str, str], float]:
    """Median seconds by variant and case; the first round warms up and does not count."""
    clock = time.process_time if arguments.threads == 1 else time.perf_counter
    seconds: dict[tuple[str, str], list[float]] = {
        (variant.name, case): [] for variant in variants for case in CASES
    }
    order = [(variant, case) for variant in variants for case in CASES]
    shuffle = random.Random(0).shuffle
    for _ in range(arguments.repeats + 1):
        shuffle(order)
        for variant, case in order:
            times = seconds[variant.name, case]
            if sum(times) <= arguments.seconds:
                times.append(time_once(variant, case, clock))
    return {key: statistics.median(times[1:] or times) for key, times in seconds.items()}


def time_once(variant: Variant, case: str, clock: Callable[[], float]) -> float:
    for leaf in variant.leaves:
        leaf.grad = None
    if case == "forward":
        with torch.no_grad():
            start = clock()
            variant.run()
            return clock() - start
    start = clock()
    variant.run().backward(variant.dout)
    return clock() - start


def print_table(rows: list[dict[str, Any]]) -> None:
    print(f"\n{rows[0]['kernel']}, L = {rows[0]['length']}")
    print(f"{'':12}{'':18}{'ms':>12}  times as fast as {rows[0]['baseline']}")
    for row in sorted(rows, key=lambda row: (row["case"], row["milliseconds"])):
        figures = f"{row['milliseconds']:12.1f}  {row['speedup']:.2f}"
        print(f"{row['variant']:12}{row['case']:18}{figures}", flush=True)


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    library = _native.library()
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "library": None if library is None else Path(library._name).name,
        "clock": "process CPU time" if arguments.threads == 1 else "wall time",
        "shape": {"d_inner": D_INNER, "d_state": D_STATE, "width": WIDTH},
        "tokens": arguments.tokens,
        "threads": arguments.threads,
        "repeats": arguments.repeats,
        "versions": {
            "genodiff": genodiff.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def processor() -> str:
    """The model's name, and its vector sets as torch sees them."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


if __name__ == "__main__":
    main()
