"""Whole training steps of every backbone: tokens a second, memory, share of the attainable peak.

    python benchmarks/throughput.py --out throughput.json
    python benchmarks/throughput.py --long --out throughput_long.json
    python benchmarks/throughput.py --device cuda --out throughput_cuda.json

A step is forward, cross-entropy of the masked half, backward and AdamW; on CUDA under bfloat16
autocast. Beside Caduceus stand the published structure (two Mamba modules with flips and
nn.Conv1d, its parameters and results the same, which is checked first) on our scan and, on CPU, on
mambapy's pscan. All networks are interleaved in one process; figures are medians.

FLOPs: products and attention by torch's counter, which counts causal attention whole; a scan 7 a
token, channel and state forward and 14 backward; a depthwise convolution 2 a tap forward and 4
backward. Recomputed work is not counted. Attainable is a large matrix product in the same run.

--long is Caduceus-Ph at L = 131,072 instead, beside as many tokens in sequences of 1,024, on CPU:
each row in a process of its own, whose peak resident memory, of everything in it, is reported.
"""

import argparse
import copy
import json
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import machine, median_seconds, parser_of, peak_bytes
from published import PublishedCaduceus, pscan_or_none
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from genodiff.backbones import Caduceus, DiMamba, ReverseComplementEquivariant, Transformer
from genodiff.backbones.mamba import SelectiveSSM
from genodiff.data import DnaTokenizer
from genodiff.ops import selective_scan
from genodiff.training import compile_blocks

DNA = DnaTokenizer()
COMPLEMENT = list(DNA.complement)
LONG = 131_072
# What, width, depth, batch, length, recompute: most at equal tokens, short and long.
LONG_ROWS = [
    ("evaluation", 128, 4, LONG // 1024, 1024, False),
    ("evaluation", 128, 4, 1, LONG, False),
    ("training step", 128, 4, LONG // 1024, 1024, False),
    ("training step", 128, 4, 1, LONG, False),
    ("training step", 128, 4, 1, LONG, True),
    ("training step", 64, 2, LONG // 1024, 1024, False),
    ("training step", 64, 2, 1, LONG, False),
    ("evaluation", 256, 16, 1, LONG, False),
    ("training step", 256, 16, 1, LONG, True),
]


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    if device.type == "cpu":
        arguments.batch = arguments.batch or 8
    else:
        arguments.batch, arguments.d_model = arguments.batch or 128, arguments.d_model or 256
    arguments.d_model = arguments.d_model or 128
    print(json.dumps(machine(device)))
    report: dict[str, Any] = {"machine": machine(device)}
    if arguments.long:
        report["rows"] = [measure_long(row, arguments) for row in LONG_ROWS]
    else:
        names = ("batch", "length", "d_model", "layers")
        report["shape"] = {name: getattr(arguments, name) for name in names}
        report |= measure_steps(device, arguments)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, help="8 on CPU, 128 on CUDA")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--d-model", type=int, help="128 on CPU, 256 on CUDA")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=20, help="of a network, in all rounds")
    parser.add_argument(
        "--long", action="store_true", help="L = 131,072 instead, a quarter of an hour"
    )
    return parser.parse_args()


def networks(d: int, layers: int, device: torch.device) -> dict[str, nn.Module]:
    """Every backbone, and the published structure with the parameters of ours."""
    trunk = Caduceus(DNA.vocab_size, d, layers)
    table = [*COMPLEMENT, *range(len(COMPLEMENT), trunk.vocab_size)]
    ps = ReverseComplementEquivariant(copy.deepcopy(trunk), COMPLEMENT)
    heads = max(1, d // 64)
    result: dict[str, nn.Module] = {
        "Caduceus-Ph": trunk,
        "Caduceus-PS": ps,
        "Mamba, left to right": Caduceus(DNA.vocab_size, d, layers, bidirectional=False),
        "DiMamba": DiMamba(DNA.vocab_size, d, layers, dropout=0.0),
        "DiT": Transformer(DNA.vocab_size, d, layers, heads, dropout=0.0),
        "transformer, causal": Transformer(
            DNA.vocab_size, d, layers, heads, cond_dim=None, dropout=0.0, causal=True
        ),
        "Ph, published": PublishedCaduceus(copy.deepcopy(trunk), selective_scan),
        "PS, published": PublishedCaduceus(copy.deepcopy(trunk), selective_scan, table),
    }
    result["DiT, compiled"] = copy.deepcopy(result["DiT"])
    compile_blocks(result["DiT, compiled"], device)
    pscan = pscan_or_none() if device.type == "cpu" else None
    if pscan is not None:
        result["Ph, published, pscan"] = PublishedCaduceus(copy.deepcopy(trunk), pscan)
    elif device.type == "cpu":
        print("no pscan: mambapy is not installed; pip install --no-deps mambapy")
    return {name: network.to(device) for name, network in result.items()}


PEERS = {
    "Caduceus-Ph": ("Ph, published", "Ph, published, pscan"),
    "Caduceus-PS": ("PS, published",),
    "DiT, compiled": ("DiT",),
}


def measure_steps(device: torch.device, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rows of all networks, printed."""
    nets = networks(arguments.d_model, arguments.layers, device)
    x0, x_t, is_masked = some_batch(arguments.batch, arguments.length, device)
    check_peers(nets, x_t[:1, :256])
    steps: dict[str, Callable[[], None]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name, network in nets.items():
        loss = partial(masked_loss, network, x0, x_t, is_masked)
        steps[name] = partial(train, loss, optimizer(network, device))
        steps[name]()  # AdamW's moments are part of the network, not of a step
        rows[name] = {
            "parameters": sum(p.numel() for p in network.parameters()),
            "flops": None
            if "published" in name or "compiled" in name
            else flops(network, loss, x0.numel()),
            "peak_mib": peak_bytes(steps[name], device) / 2**20,
        }
    size, dtype = (2048, torch.float32) if device.type == "cpu" else (8192, torch.bfloat16)
    square = torch.randn(size, size, device=device, dtype=dtype)
    medians = median_seconds(
        {**steps, "product": lambda: square @ square},
        device,
        repeats=arguments.repeats,
        seconds=arguments.seconds,
    )
    attainable = 2 * size**3 / medians["product"]
    print(f"\n{arguments.batch} x {arguments.length}, d_model {arguments.d_model}, ", end="")
    print(f"{arguments.layers} layers; attainable {attainable / 1e9:,.0f} GFLOP/s ({dtype})")
    print(
        f"{'':22}{'ms':>9}{'tokens/s':>11}{'peak MiB':>10}{'of attainable':>15}  times as fast as"
    )
    for name, row in rows.items():
        seconds = medians[name]
        row["milliseconds"] = 1e3 * seconds
        row["tokens_a_second"] = x0.numel() / seconds
        row["share_of_attainable"] = row["flops"] and row["flops"] / seconds / attainable
        row["times_as_fast_as"] = {
            peer: medians[peer] / seconds for peer in PEERS.get(name, ()) if peer in medians
        }
        share = f"{row['share_of_attainable']:.1%}" if row["flops"] else ""
        ratios = ", ".join(f"{peer}: {x:.2f}" for peer, x in row["times_as_fast_as"].items())
        print(
            f"{name:22}{row['milliseconds']:9.1f}{row['tokens_a_second']:11,.0f}"
            f"{row['peak_mib']:10.0f}{share:>15}  {ratios}"
        )
    return {"attainable_flops": attainable, "steps": rows}


def some_batch(b: int, l: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Random bases, the same half masked, and where."""
    bases = torch.tensor(list(DNA.data_ids))
    x0 = bases[torch.randint(len(bases), (b, l))].to(device)
    is_masked = (torch.rand(b, l) < 0.5).to(device)
    return x0, torch.where(is_masked, DNA.mask_id, x0), is_masked


def masked_loss(network: nn.Module, x0: Tensor, x_t: Tensor, is_masked: Tensor) -> Tensor:
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=x0.is_cuda):
        logits = network(x_t)
    return F.cross_entropy(logits[is_masked].float(), x0[is_masked])


def optimizer(network: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    return torch.optim.AdamW(network.parameters(), lr=1e-3, fused=device.type == "cuda")


def train(loss: Callable[[], Tensor], adamw: torch.optim.Optimizer) -> None:
    loss().backward()
    adamw.step()
    adamw.zero_grad(set_to_none=True)


@torch.no_grad()
def check_peers(nets: dict[str, nn.Module], tokens: Tensor) -> None:
    """The published structure gives the logits of ours: float32 rounding through the layers."""
    for name, peers in PEERS.items():
        for peer in peers:
            if peer in nets:
                torch.testing.assert_close(
                    nets[peer](tokens), nets[name](tokens), atol=1e-4, rtol=1e-3
                )


def flops(network: nn.Module, loss: Callable[[], Tensor], tokens: int) -> int:
    """Of forward and backward; see the top of this file."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss().backward()
    network.zero_grad(set_to_none=True)
    if isinstance(network, ReverseComplementEquivariant):
        tokens *= 2
    ours = 0
    for module in network.modules():
        if isinstance(module, SelectiveSSM):
            d, n = module.A_log.shape
            ours += tokens * d * (21 * n + 6 * module.conv_weight.shape[1])
    return counter.get_total_flops() + ours


def measure_long(
    row: tuple[str, int, int, int, int, bool], arguments: argparse.Namespace
) -> dict[str, Any]:
    """One row in a process of its own, so that its peak memory is what the process ever held."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        result = pool.apply(run_long, (row, arguments.threads))
    print(
        f"{result['what']:14}{result['network']:26}{result['batch']:4} x {result['length']:<8}"
        f"{result['seconds']:7.1f} s{result['microseconds_a_token']:8.1f} us a token"
        f"{result['process_peak_gib']:8.2f} GiB",
        flush=True,
    )
    return result


def run_long(row: tuple[str, int, int, int, int, bool], threads: int) -> dict[str, Any]:
    """The time of the second call, as the first touches new memory; of the first if it is long."""
    what, d, layers, b, l, recompute = row
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = Caduceus(DNA.vocab_size, d, layers, recompute=recompute)
    x0, x_t, is_masked = some_batch(b, l, torch.device("cpu"))
    loss = partial(masked_loss, network, x0, x_t, is_masked)
    adamw = optimizer(network, torch.device("cpu"))
    clock = time.process_time if threads == 1 else time.perf_counter
    seconds = 0.0
    for _ in range(1 if layers > 4 else 2):
        start = clock()
        if what == "evaluation":
            with torch.no_grad():
                network(x_t)
        else:
            train(loss, adamw)
        seconds = clock() - start
    return {
        "what": what,
        "network": f"Caduceus-Ph {d} x {layers}" + (", recompute" if recompute else ""),
        "batch": b,
        "length": l,
        "seconds": seconds,
        "microseconds_a_token": 1e6 * seconds / (b * l),
        "process_peak_gib": peak_resident_bytes() / 2**30,
    }


def peak_resident_bytes() -> int:
    """Of this process; getrusage would count what its parent held when it was forked."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no line VmHWM; run this on Linux")


if __name__ == "__main__":
    main()
