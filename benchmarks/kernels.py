"""Times the kernels of `genodiff.ops` against each other and against what others run.

    python benchmarks/kernels.py --out kernels.json
    python benchmarks/kernels.py --device cuda --out kernels_cuda.json

All variants of a shape run in one process, in a new random order every round; a figure is the
median over rounds. `published` is mamba-ssm's `selective_scan_ref` as it is: its backward pass is
quadratic in length (minutes at L = 1,024), so only its forward pass is timed, and forward +
backward is compared with `published, linear`, the same made linear. Memory is the peak of torch's
allocator above the inputs and the output's gradient: results and gradients of the inputs are in
it. A variant that would take longer than --seconds a call, or half of the free memory, judged by
its figures at the length before, sits out a length; the table says so.
"""

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from measuring import free_bytes, machine, median_seconds, parser_of, peak_bytes
from published import Scan, linear_ref, pscan_or_none, selective_scan_ref
from torch import Tensor
from torch.nn import functional as F

from genodiff.errors import UserError
from genodiff.ops import Implementation, causal_conv1d, selective_scan

D_INNER, D_STATE, WIDTH = 256, 16, 4
CASES = ("forward", "forward+backward")
BASELINES = {
    "selective_scan": ("published", "published, linear", "pscan"),
    "causal_conv1d": ("nn.Conv1d",),
}
# Not linear in time, or a second time the same.
LEFT_OUT = {"published": "forward+backward", "published, linear": "forward"}


class Variant(NamedTuple):
    """A function of the leaves, timed under a name, and the gradient of its output."""

    name: str
    run: Callable[[], Tensor]
    leaves: list[Tensor]
    dout: Tensor

    def clear(self) -> None:
        for leaf in self.leaves:
            leaf.grad = None

    def call(self, case: str) -> None:
        self.clear()
        if case == "forward":
            with torch.no_grad():
                self.run()
        else:
            self.run().backward(self.dout)


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    dtypes = [torch.float32, torch.bfloat16] if device.type == "cuda" else [torch.float32]
    rows: list[dict[str, Any]] = []
    for dtype in dtypes:
        for kernel in BASELINES:
            for length in arguments.lengths:
                rows += measure(kernel, length, dtype, device, arguments, rows)
    rows += growth(device, arguments)
    if arguments.out is not None:
        report = {"machine": machine(device), "settings": settings(arguments), "rows": rows}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[1024, 8192, 32_768, 131_072])
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch, if it is longer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="a call, and all of a variant's")
    return parser.parse_args()


def measure(
    kernel: str,
    length: int,
    dtype: torch.dtype,
    device: torch.device,
    arguments: argparse.Namespace,
    before: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The rows of one kernel at one length, printed."""
    shape = (max(1, arguments.tokens // length), length, D_INNER)
    common = {"kernel": kernel, "length": length, "batch": shape[0], "dtype": str(dtype)[6:]}
    make = scan_variants if kernel == "selective_scan" else conv_variants
    calls: dict[tuple[str, str], Callable[[], None]] = {}
    peaks: dict[tuple[str, str], int] = {}
    sizes: dict[str, int] = {}
    notes: list[str] = []
    for variant in make(shape, dtype, device, notes):
        sizes[variant.name] = sum(leaf.nbytes for leaf in variant.leaves)
        for case in CASES:
            if LEFT_OUT.get(variant.name) == case:
                continue
            key = common | {"variant": variant.name, "case": case}
            reason = too_much(key, shape[0] * length, device, arguments.seconds, before)
            if reason is not None:
                notes.append(f"{variant.name}, {case}: {reason}")
                continue
            call = calls[variant.name, case] = partial(variant.call, case)
            variant.clear()
            peaks[variant.name, case] = peak_bytes(call, device)
    medians = median_seconds(calls, device, repeats=arguments.repeats, seconds=arguments.seconds)
    rows = [
        common
        | {
            "variant": name,
            "case": case,
            "milliseconds": 1e3 * seconds,
            "peak_mib": peaks[name, case] / 2**20,
            "peak_by_inputs": peaks[name, case] / sizes[name],
            "times_as_fast_as": {
                peer: medians[peer, case] / seconds
                for peer in BASELINES[kernel]
                if (peer, case) in medians
            },
        }
        for (name, case), seconds in medians.items()
    ]
    print_table(rows, notes)
    return [*rows, *(common | {"sat_out": note} for note in notes)]


def too_much(
    key: dict[str, Any],
    tokens: int,
    device: torch.device,
    seconds: float,
    rows: list[dict[str, Any]],
) -> str | None:
    """Why a variant sits out, judged by the last shorter length, from which all is linear."""
    same = ("kernel", "dtype", "variant", "case")
    past = [row for row in rows if all(row.get(name) == key[name] for name in same)]
    if not past:
        tried = any(
            row["kernel"] == key["kernel"] and row["dtype"] == key["dtype"] for row in rows
        )
        return "sat out a shorter length already" if tried else None
    growth = tokens / (past[-1]["batch"] * past[-1]["length"])
    expected = growth * past[-1]["milliseconds"] / 1e3
    if expected > seconds:
        return f"about {expected:.0f} s a call, more than --seconds {seconds:.0f}"
    mib = growth * past[-1]["peak_mib"]
    if mib * 2**20 > free_bytes(device) / 2:
        return f"about {mib / 1024:.1f} GiB, more than half of the free memory"
    return None


def scan_variants(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, notes: list[str]
) -> Iterable[Variant]:
    """The scans that can run here; `decaying` is of one input that decays for the whole length."""
    leaves, dout = scan_inputs(shape, dtype, device)
    for name in runnable(partial(selective_scan, *_first_steps(leaves)), notes):
        ours = partial(selective_scan, *leaves, implementation=name)
        yield Variant(name, ours, leaves, dout)
        if name in ("native", "triton"):
            impulse = [leaves[0].detach().clone().requires_grad_(), *leaves[1:]]
            impulse[0].data[:, 1:] = 0
            decaying = partial(selective_scan, *impulse, implementation=name)
            yield Variant(f"{name}, decaying", decaying, impulse, dout)
    pscan = pscan_or_none()
    if pscan is None:
        notes.append("pscan: mambapy is not installed; pip install --no-deps mambapy")
    peers: dict[str, Scan | None] = {
        "published": selective_scan_ref,
        "published, linear": linear_ref,
        "pscan": pscan,
    }
    for name, scan in peers.items():
        if scan is not None:
            yield Variant(name, partial(scan, *leaves), leaves, dout)


def scan_inputs(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Tensor]:
    """Leaves, with Mamba's initial rates and steps, and the gradient of the output."""
    b, l, d = shape
    tensors = {
        "u": torch.randn(b, l, d, dtype=dtype),
        "delta": 0.5 * torch.randn(b, l, d, dtype=dtype) - 3,
        "A": -torch.arange(1.0, D_STATE + 1).repeat(d, 1),
        "B": torch.randn(b, l, D_STATE, dtype=dtype),
        "C": torch.randn(b, l, D_STATE, dtype=dtype),
        "D": torch.ones(d),
        "z": torch.randn(b, l, d, dtype=dtype),
        "delta_bias": torch.zeros(d),
    }
    leaves = [tensor.to(device).requires_grad_() for tensor in tensors.values()]
    return leaves, torch.randn(b, l, d, dtype=dtype).to(device)


def _first_steps(leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.detach()[:1, :2] if leaf.ndim == 3 else leaf.detach() for leaf in leaves]


def conv_variants(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, notes: list[str]
) -> Iterable[Variant]:
    """Against what Mamba's nn.Conv1d does, between two transpositions."""
    leaves, dout = conv_inputs(shape, dtype, device)
    for name in runnable(partial(causal_conv1d, *_first_steps(leaves)), notes):
        yield Variant(name, partial(causal_conv1d, *leaves, implementation=name), leaves, dout)

    def published() -> Tensor:
        x, weight, bias = leaves
        s = F.conv1d(x.mT, weight.unsqueeze(1), bias, padding=WIDTH - 1, groups=D_INNER)
        return F.silu(s[..., : shape[1]]).mT

    yield Variant("nn.Conv1d", published, leaves, dout)


def conv_inputs(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[list[Tensor], Tensor]:
    """Leaves, and the gradient of the output."""
    d = shape[2]
    tensors = torch.randn(shape, dtype=dtype), torch.randn(d, WIDTH) / 2, torch.randn(d)
    leaves = [tensor.to(device, dtype).requires_grad_() for tensor in tensors]
    return leaves, torch.randn(shape, dtype=dtype).to(device)


def runnable(function: Callable[..., Tensor], notes: list[str]) -> list[Any]:
    """The implementations that can run here; why others cannot goes into the notes."""
    names = []
    for name in get_args(Implementation):
        if name == "auto":
            continue
        try:
            function(implementation=name)
        except UserError as error:
            notes.append(str(error))
        else:
            names.append(name)
    return names


def growth(device: torch.device, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """What "auto" takes, at equal tokens in short and long sequences, and one sequence growing."""
    shapes = [(128, 1024), (1, 131_072), (1, 4096), (1, 32_768)]
    rows = []
    print("\nGrowth with length, implementation=auto, microseconds a token")
    for function, inputs in ((selective_scan, scan_inputs), (causal_conv1d, conv_inputs)):
        calls = {}
        for b, l in shapes:
            leaves, dout = inputs((b, l, D_INNER), torch.float32, device)
            variant = Variant("auto", partial(function, *leaves), leaves, dout)
            calls |= {(case, b, l): partial(variant.call, case) for case in CASES}
        medians = median_seconds(
            calls, device, repeats=arguments.repeats, seconds=arguments.seconds
        )
        for case in CASES:
            costs = {(b, l): 1e6 * medians[case, b, l] / (b * l) for b, l in shapes}
            row = {
                "kernel": function.__name__,
                "case": case,
                "microseconds_a_token": {f"{b} x {l}": cost for (b, l), cost in costs.items()},
                "cost_a_token_131k_by_1k": costs[1, 131_072] / costs[128, 1024],
                "time_32k_by_4k": 8 * costs[1, 32_768] / costs[1, 4096],
            }
            figures = "  ".join(f"{b} x {l}: {cost:.2f}" for (b, l), cost in costs.items())
            print(f"{function.__name__:16}{case:18}{figures}")
            print(
                f"{'':34}a token, 131k by 1k: {row['cost_a_token_131k_by_1k']:.2f}; "
                f"time(32k) / time(4k): {row['time_32k_by_4k']:.1f}"
            )
            rows.append(row)
    return rows


def print_table(rows: list[dict[str, Any]], notes: list[str]) -> None:
    first = rows[0]
    print(
        f"\n{first['kernel']}, {first['batch']} x {first['length']} x {D_INNER}, {first['dtype']}"
    )
    peers = BASELINES[first["kernel"]]
    heads = "".join(f"  x {peer:17}" for peer in peers)
    print(f"{'':20}{'':18}{'ms':>10}{'peak MiB':>10}{'by inputs':>10}{heads}")
    for row in sorted(rows, key=lambda row: (row["case"], row["milliseconds"])):
        ratios = row["times_as_fast_as"]
        columns = "".join(f"  {ratios[p]:<19.2f}" if p in ratios else " " * 21 for p in peers)
        print(
            f"{row['variant']:20}{row['case']:18}{row['milliseconds']:10.1f}"
            f"{row['peak_mib']:10.0f}{row['peak_by_inputs']:10.2f}{columns}",
            flush=True,
        )
    for note in notes:
        print(f"  sits out: {note}")


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "shape": {"d_inner": D_INNER, "d_state": D_STATE, "width": WIDTH},
        "tokens": arguments.tokens,
        "repeats": arguments.repeats,
        "seconds": arguments.seconds,
    }


if __name__ == "__main__":
    main()
