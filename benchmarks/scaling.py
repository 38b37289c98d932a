"""Training steps against model size and length, and what they say of long runs on many GPUs.

    python benchmarks/scaling.py --out scaling.json
    python benchmarks/scaling.py --device cuda --out scaling_cuda.json

Measured, each row in a process of its own: tokens a second, peak memory, and, which no device
changes, FLOPs, the bytes that eager PyTorch reads and writes in float32, the tensors kept for the
backward pass, and the calls of operators. A step is that of throughput.py.

Computed from the counts, for GPUs of --flops and --bandwidth: hours of MDLM's recipe for DNA and
of a model of 100 million parameters on 10^12 bases. A step of a device takes
    max(work, calls x --launch) + all-reduce of float32 gradients over --link,
with work = (FLOPs / --flops + bytes / 2 / --bandwidth) / --share: bytes are halved for bfloat16,
and kernels reach the share --share of those limits. Nothing overlaps.
"""

import argparse
import json
import multiprocessing
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from measuring import machine, parser_of, peak_bytes, seconds_of
from throughput import DNA, flops, masked_loss, optimizer, peak_resident_bytes, some_batch, train
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from genodiff.backbones import Caduceus
from genodiff.backbones.mamba import SelectiveSSM


class Row(NamedTuple):
    """A step: of Caduceus-Ph of that width and depth, on sequences of that length."""

    d_model: int
    layers: int
    batch: int
    length: int
    recompute: bool = False


ROWS = [
    Row(118, 4, 8, 1024),
    Row(128, 4, 8, 1024),
    Row(256, 4, 8, 1024),
    Row(256, 16, 8, 1024),
    Row(512, 16, 8, 1024),
    Row(768, 24, 2, 1024),
    Row(118, 4, 1, 8192),
    Row(118, 4, 1, 32768),
    Row(118, 4, 1, 131072),
    Row(256, 16, 1, 8192, True),
    Row(256, 16, 1, 32768, True),
]
GPUS = (8, 32, 128, 512)


class Plan(NamedTuple):
    """A training run to be estimated."""

    name: str
    row: Row
    batch_tokens: int
    steps: int


PLANS = [
    Plan("MDLM's two stages, 118 x 4", ROWS[0], 2**20, 60_000),
    Plan("768 x 24 on 10^12 bases, 2^20 a step", ROWS[5], 2**20, round(1e12 / 2**20)),
    Plan("768 x 24 on 10^12 bases, 2^22 a step", ROWS[5], 2**22, round(1e12 / 2**22)),
]


def main() -> None:
    arguments = parse_arguments()
    device = torch.device(arguments.device)
    report: dict[str, Any] = {"machine": machine(device), "rows": [], "plans": []}
    print(f"{'step':28}{'parameters':>12}{'tokens/s':>11}{'peak MiB':>10}", end="")
    print(f"{'kFLOP':>8}{'kB':>8}{'kB kept':>9}  a token{'calls':>7}")
    for row in ROWS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            measured = pool.apply(measure, (row, arguments.device, arguments.threads))
        report["rows"].append(measured)
        print_row(measured)
    limits = {key: getattr(arguments, key) for key in ("flops", "bandwidth", "link", "launch")}
    report["limits"] = {**limits, "shares": arguments.share}
    for plan in PLANS:
        of = next(r for r in report["rows"] if r["row"] == plan.row._asdict())
        for gpus in GPUS:
            spans = [estimate(plan, of, gpus, share, **limits) for share in arguments.share]
            report["plans"].append({"plan": plan.name, "gpus": gpus, "by_share": spans})
            print_plan(plan, gpus, spans)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--flops", type=float, default=788e12, help="a second, bfloat16 (H200)")
    parser.add_argument("--bandwidth", type=float, default=4.3e12, help="bytes a second (H200)")
    parser.add_argument("--link", type=float, default=40e9, help="bytes a second between devices")
    parser.add_argument("--launch", type=float, default=6e-6, help="seconds a call")
    parser.add_argument("--share", type=float, nargs="+", default=[0.15, 0.4])
    return parser.parse_args()


def measure(row: Row, kind: str, threads: int) -> dict[str, Any]:
    """A row: the second step's time, the first one's counts."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    device = torch.device(kind)
    network = Caduceus(DNA.vocab_size, row.d_model, row.layers, recompute=row.recompute)
    network.to(device)
    loss = partial(masked_loss, network, *some_batch(row.batch, row.length, device))
    step = partial(train, loss, optimizer(network, device))
    tokens = row.batch * row.length
    step()
    if device.type == "cuda":
        peak, seconds = peak_bytes(step, device), seconds_of(step, device)
    else:
        seconds = seconds_of(step, device)
        peak = peak_resident_bytes()
    traffic, kept = Traffic(), kept_bytes(loss)
    with traffic:
        loss().backward()
    moved = traffic.bytes + hidden_traffic(network, tokens, row.recompute)
    return {
        "row": row._asdict(),
        "parameters": sum(p.numel() for p in network.parameters()),
        "tokens_a_second": tokens / seconds,
        "peak_bytes": peak,
        "flops_a_token": flops(network, loss, tokens) / tokens,
        "bytes_a_token": moved / tokens,
        "kept_a_token": kept / tokens,
        "calls": traffic.calls,
    }


class Traffic(TorchDispatchMode):
    """Counts the bytes of what operators read and write, and their calls; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        read, written = tensors((args, kwargs)), tensors(out)
        known = {x.untyped_storage().data_ptr() for x in read}
        view = written and all(x.untyped_storage().data_ptr() in known for x in written)
        if not view or func.__name__.split(".")[0].endswith("_"):
            self.bytes += sum(x.numel() * x.element_size() for x in (*read, *written))
            self.calls += 1
        return out


def tensors(tree: Any) -> list[Tensor]:
    """All tensors in it."""
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def hidden_traffic(network: torch.nn.Module, tokens: int, recompute: bool) -> int:
    """What the kernels of scan and convolution move, which PyTorch does not see, at 4 bytes: the
    scan 4 streams of its channels forward and 8 backward, the convolution 2 and 4."""
    streams = 6 * (2 if recompute else 1) + 12
    widths = [m.A_log.shape[0] for m in network.modules() if isinstance(m, SelectiveSSM)]
    return 4 * streams * tokens * sum(widths)


def kept_bytes(loss: Callable[[], Tensor]) -> int:
    """The storages that autograd keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss()
    del value
    return sum(kept.values())


def estimate(
    plan: Plan,
    of: dict[str, Any],
    gpus: int,
    share: float,
    *,
    flops: float,
    bandwidth: float,
    link: float,
    launch: float,
) -> dict[str, float]:
    """Seconds of a step, by part, and hours of the run; see the top of this file."""
    tokens = plan.batch_tokens / gpus
    work = tokens * (of["flops_a_token"] / flops + of["bytes_a_token"] / 2 / bandwidth) / share
    calls = of["calls"] * launch
    reduce = 2 * (gpus - 1) / gpus * 4 * of["parameters"] / link
    step = max(work, calls) + reduce
    return {
        "share": share,
        "work": work,
        "calls": calls,
        "reduce": reduce,
        "step": step,
        "hours": plan.steps * step / 3600,
        "tokens_a_second": plan.batch_tokens / step,
    }


def print_row(measured: dict[str, Any]) -> None:
    row = Row(**measured["row"])
    name = f"{row.d_model} x {row.layers}, {row.batch} x {row.length}" + " r" * row.recompute
    thousands = [measured[f"{key}_a_token"] / 1e3 for key in ("flops", "bytes", "kept")]
    print(
        f"{name:28}{measured['parameters']:12,}{measured['tokens_a_second']:11,.0f}"
        f"{measured['peak_bytes'] / 2**20:10,.0f}{thousands[0]:8,.0f}{thousands[1]:8,.0f}"
        f"{thousands[2]:9,.0f}{measured['calls']:16,}",
        flush=True,
    )


def print_plan(plan: Plan, gpus: int, spans: list[dict[str, float]]) -> None:
    for span in spans:
        parts = "  ".join(f"{key} {1e3 * span[key]:.2f}" for key in ("work", "calls", "reduce"))
        print(
            f"{plan.name:40}{gpus:4} GPUs at {span['share']:.0%}: {span['hours']:8.1f} h, "
            f"{1e3 * span['step']:7.2f} ms a step ({parts}), {span['tokens_a_second']:,.0f} "
            "tokens/s"
        )


if __name__ == "__main__":
    main()
