"""Times the masked-diffusion loss with its head at masked positions, and everywhere.

    python benchmarks/head.py --out head.json
    python benchmarks/head.py --device cuda --out head_cuda.json

`published` is MDLM's order of operations (Sahoo et al. 2024): logits of all positions, the mask's
made impossible, normalised, those of clean tokens written over, the token's picked. A call is the
head, the loss and the gradients of hidden states and head, half of the positions masked; the
trunk is left out. The matrix products of each are timed alone too: what is left is the loss. All
run in one process in a new random order every round; figures are medians. Values and gradients
are compared first, and their largest difference reported, relative to the norm.

Of a training step (forward and backward, with a trunk: the paper's small network, but of --layers
layers) the peak memory is measured: from what it found, so weights are not counted and their
gradients are.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from measuring import machine, median_seconds, parser_of, peak_bytes
from torch import Tensor, nn

from genodiff.backbones import Transformer
from genodiff.diffusion import Absorbing, ContinuousNelbo, LogLinear, NetworkDenoiser, Subs
from genodiff.diffusion.chunked_head import LOGITS_AT_ONCE

# Tokens, width: DNA, and GPT-2's vocabulary in the paper's small network.
CASES = ((16, 128), (50_258, 768))
HEADS = 12  # of attention, in that network


class Head(nn.Module):
    """A network whose trunk has done its work."""

    def __init__(self, states: Tensor, vocab_size: int) -> None:
        super().__init__()
        self.states = nn.Parameter(states)
        self.output = nn.Linear(states.shape[-1], vocab_size, device=states.device)

    def hidden(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.states

    def head(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)

    def linear_head(self) -> tuple[Tensor, Tensor]:
        return self.output.weight, self.output.bias

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(tokens))


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    rows = [row for v, d in CASES for row in measure(v, d, device, arguments)]
    step = measure_step(*CASES[-1], device, arguments)
    if arguments.out is not None:
        report = {"machine": machine(device), "rows": rows, "training_step": step}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2, help="of the trunk of a training step")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="of a variant, in all rounds")
    return parser.parse_args()


def measure(
    vocab_size: int, d_model: int, device: torch.device, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of one vocabulary, printed."""
    b, l = arguments.batch, arguments.length
    network = Head(torch.randn(b, l, d_model, device=device), vocab_size)
    losses = losses_of(network, vocab_size, b, l, device)
    print(f"\n{vocab_size} tokens, d_model {d_model}, {b} x {l}")
    peaks, difference = compare(losses, network, device)
    calls = {name: gradient_of(loss, network) for name, loss in losses.items()}
    products = {
        "at masks": lambda: products_in_chunks(
            network.states.flatten(0, 1)[: b * l // 2], network.output
        ),
        "published": lambda: products_at_once(network.states.flatten(0, 1), network.output),
    }
    timed = {(name, "call"): call for name, call in calls.items()}
    timed |= {(name, "products"): without_graph(call) for name, call in products.items()}
    seconds = median_seconds(timed, device, repeats=arguments.repeats, seconds=arguments.seconds)
    whole = {name: seconds[name, "call"] for name in calls}
    rest = {name: seconds[name, "call"] - seconds[name, "products"] for name in calls}
    rows = []
    for name in calls:
        row = {
            "variant": name,
            **{"vocab_size": vocab_size, "d_model": d_model, "batch": b, "length": l},
            "milliseconds": 1e3 * whole[name],
            "milliseconds_without_products": 1e3 * rest[name],
            "peak_mib": peaks[name],
            "times_as_fast_as_published": whole["published"] / whole[name],
            "without_products_times_as_fast": rest["published"] / rest[name],
            "memory_by_published": peaks[name] / peaks["published"],
            "relative_difference": difference,
        }
        rows.append(row)
        print(
            f"{name:12}{row['milliseconds']:10.1f} ms{row['peak_mib']:9.0f} MiB"
            f"{row['times_as_fast_as_published']:8.2f} times as fast as published, "
            f"{row['memory_by_published']:.3f} of its memory; without matrix products "
            f"{row['milliseconds_without_products']:.1f} ms, "
            f"{row['without_products_times_as_fast']:.2f} times as fast"
        )
    return rows


def measure_step(
    vocab_size: int, d_model: int, device: torch.device, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Peak memory of a training step, printed."""
    b, l = arguments.batch, arguments.length
    network = Transformer(vocab_size, d_model, arguments.layers, HEADS, dropout=0.0).to(device)
    for parameter in network.parameters():
        if not bool(parameter.any()):  # the head, and what it would hide
            nn.init.normal_(parameter, std=0.02)
    losses = losses_of(network, vocab_size, b, l, device)
    peaks, difference = compare(losses, network, device)
    print(f"\ntraining step, {arguments.layers} layers, {b} x {l}")
    rows = []
    for name, peak in peaks.items():
        row = {
            "variant": name,
            **{"vocab_size": vocab_size, "d_model": d_model, "batch": b, "length": l},
            "layers": arguments.layers,
            "peak_mib": peak,
            "memory_by_published": peak / peaks["published"],
            "relative_difference": difference,
        }
        rows.append(row)
        print(f"{name:12}{peak:9.0f} MiB, {row['memory_by_published']:.3f} of published")
    return rows


def losses_of(
    network: nn.Module, vocab_size: int, b: int, l: int, device: torch.device
) -> dict[str, Callable[[], Tensor]]:
    """The same loss in either way."""
    mask_id = vocab_size - 1
    process = Absorbing(LogLinear(), vocab_size, mask_id)
    model = NetworkDenoiser(network, process, Subs(vocab_size, mask_id))
    x0 = torch.randint(mask_id, (b, l), device=device)
    t = torch.linspace(0.4, 0.6, b, dtype=torch.float64, device=device)[:, None]
    x_t = process.mask(x0, torch.rand(b, l, device=device) < 0.5)
    weight = process.schedule.nelbo_weight(t).float()
    return {
        "at masks": lambda: ContinuousNelbo().at(model, x0, x_t, t).mean(),
        "published": lambda: (weight * published_nats(network(x_t), x0, x_t, mask_id)).mean(),
    }


def gradient_of(loss: Callable[[], Tensor], network: nn.Module) -> Callable[[], Tensor]:
    """The loss, its gradients left in the parameters."""

    def run() -> Tensor:
        network.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        return value.detach()

    return run


def compare(
    losses: dict[str, Callable[[], Tensor]], network: nn.Module, device: torch.device
) -> tuple[dict[str, float], float]:
    """Peak MiB of each, and the largest difference of value and gradients, by their norms.

    Raises AssertionError if that is more than float32 rounding.
    """
    peaks: dict[str, float] = {}
    results: list[list[Tensor]] = []
    for name, loss in losses.items():
        network.zero_grad(set_to_none=True)
        values: list[Tensor] = []
        run = gradient_of(loss, network)
        peaks[name] = peak_bytes(lambda run=run, values=values: values.append(run()), device)
        peaks[name] /= 2**20
        results.append([*values, *(p.grad for p in network.parameters() if p.grad is not None)])
    network.zero_grad(set_to_none=True)
    pairs = zip(*results, strict=True)
    difference = max(float((a - b).norm() / b.norm()) for a, b in pairs)
    print(f"values and gradients within {difference:.1e}")
    assert difference < 1e-5, "the two ways differ by more than rounding"
    return peaks, difference


def published_nats(logits: Tensor, x0: Tensor, x_t: Tensor, mask_id: int) -> Tensor:
    """-log p(x_0 | x_t) by MDLM's order of operations; 0 at clean tokens."""
    logits = logits.clone()
    logits[..., mask_id] += -1e6
    logits = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    clean = x_t != mask_id
    logits[clean] = -1e6
    logits[clean, x_t[clean]] = 0
    return -logits.gather(-1, x0[..., None])[..., 0]


def products_at_once(states: Tensor, head: nn.Linear) -> None:
    """The matrix products of a head everywhere, forward and backward, and nothing else."""
    logits = F.linear(states, head.weight, head.bias)
    torch.mm(logits, head.weight)
    torch.mm(logits.T, states)


def products_in_chunks(states: Tensor, head: nn.Linear) -> None:
    """Those of `genodiff.diffusion.linear_head`, where all logits at once would be large."""
    size = LOGITS_AT_ONCE // len(head.weight)
    if len(states) <= size:
        return products_at_once(states, head)
    size = size // 64 * 64
    by_weight, by_states = torch.zeros_like(head.weight), torch.empty_like(states)
    for start in range(0, len(states), size):
        rows = slice(start, start + size)
        logits = torch.addmm(head.bias[:, None], head.weight, states[rows].T)
        torch.mm(logits.T, head.weight, out=by_states[rows])
        by_weight.addmm_(logits, states[rows])


def without_graph(call: Callable[[], None]) -> Callable[[], None]:
    return torch.no_grad()(call)


if __name__ == "__main__":
    main()
