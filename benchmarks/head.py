"""Times the masked-diffusion loss with its head at masked positions, and everywhere.

    python benchmarks/head.py --out head.json
    python benchmarks/head.py --device cuda --out head_cuda.json

`published` is MDLM's order of operations (Sahoo et al. 2024): logits of all positions, the mask's
made impossible, normalised, those of clean tokens written over, the token's picked. A call is the
head, the loss and the gradients of hidden states and head, half of the positions masked; the
trunk is left out. All variants run in one process in a new random order every round; figures are
medians. Values and gradients are compared first.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from measuring import machine, median_seconds, parser_of, peak_bytes
from torch import Tensor, nn

from genodiff.diffusion import Absorbing, ContinuousNelbo, LogLinear, NetworkDenoiser, Subs

# Tokens, width: DNA, and GPT-2's vocabulary in the paper's small network.
CASES = ((16, 128), (50_258, 768))


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

    def forward(self, tokens: Tensor, sigma: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(tokens))


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    rows = [row for v, d in CASES for row in measure(v, d, device, arguments)]
    if arguments.out is not None:
        report = {"machine": machine(device), "rows": rows}
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=120, help="of a variant, in all rounds")
    return parser.parse_args()


def measure(
    vocab_size: int, d_model: int, device: torch.device, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """The rows of one vocabulary, printed."""
    b, l = arguments.batch, arguments.length
    network = Head(torch.randn(b, l, d_model, device=device), vocab_size)
    mask_id = vocab_size - 1
    process = Absorbing(LogLinear(), vocab_size, mask_id)
    model = NetworkDenoiser(network, process, Subs(vocab_size, mask_id))
    x0 = torch.randint(mask_id, (b, l), device=device)
    t = torch.full((b, 1), 0.5, device=device)
    x_t = process.mask(x0, torch.rand(b, l, device=device) < 0.5)
    weight = process.schedule.nelbo_weight(t)
    losses: dict[str, Callable[[], Tensor]] = {
        "at masks": lambda: ContinuousNelbo().at(model, x0, x_t, t).mean(),
        "published": lambda: (weight * published_nats(network(x_t), x0, x_t, mask_id)).mean(),
    }
    check(losses, network)

    def call(loss: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            network.zero_grad(set_to_none=True)
            loss().backward()

        return run

    calls = {name: call(loss) for name, loss in losses.items()}
    network.zero_grad(set_to_none=True)
    peaks = {name: peak_bytes(run, device) / 2**20 for name, run in calls.items()}
    medians = median_seconds(calls, device, repeats=arguments.repeats, seconds=arguments.seconds)
    print(f"\n{vocab_size} tokens, d_model {d_model}, {b} x {l}")
    rows = []
    for name, seconds in medians.items():
        row = {
            "variant": name,
            **{"vocab_size": vocab_size, "d_model": d_model, "batch": b, "length": l},
            "milliseconds": 1e3 * seconds,
            "peak_mib": peaks[name],
            "times_as_fast_as_published": medians["published"] / seconds,
            "memory_by_published": peaks[name] / peaks["published"],
        }
        rows.append(row)
        print(
            f"{name:12}{row['milliseconds']:10.1f} ms{row['peak_mib']:9.0f} MiB"
            f"{row['times_as_fast_as_published']:8.2f} times as fast as published, "
            f"{row['memory_by_published']:.3f} of its memory"
        )
    return rows


def published_nats(logits: Tensor, x0: Tensor, x_t: Tensor, mask_id: int) -> Tensor:
    """-log p(x_0 | x_t) by MDLM's order of operations; 0 at clean tokens."""
    logits = logits.clone()
    logits[..., mask_id] += -1e6
    logits = logits - torch.logsumexp(logits, dim=-1, keepdim=True)
    clean = x_t != mask_id
    logits[clean] = -1e6
    logits[clean, x_t[clean]] = 0
    return -logits.gather(-1, x0[..., None])[..., 0]


def check(losses: dict[str, Callable[[], Tensor]], network: nn.Module) -> None:
    """The same value and the same gradients, to float32 rounding."""
    results = []
    for loss in losses.values():
        network.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        gradients = [p.grad.norm() for p in network.parameters() if p.grad is not None]
        results.append(torch.stack([value.detach(), *gradients]))
    torch.testing.assert_close(*results, rtol=1e-4, atol=0)


if __name__ == "__main__":
    main()
