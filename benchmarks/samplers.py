"""Samplers of one trained model: how good their DNA is for how many network evaluations.

    python benchmarks/samplers.py --checkpoint runs/mdlm --judge runs/next_token \\
        --fasta genome.fa.gz --bed splits.bed --out results.json

Each sampler draws the same number of sequences with about as many evaluations each as
--evaluations says. They are judged by laws that had no part in drawing them: a Markov model of
order 11 and, with --judge, another network, both of the training split (nats a base of samples,
which real windows should have too: fewer is not better); by their words against held-out windows;
and by how many of their words of 12 letters are new, since a sampler that repeats itself scores
well otherwise. Real windows, as many, come first. Rows are added to --out one by one, and those
that are there already are not measured again; so models of other kinds (left to right, block
diffusion, Plaid, uniform noise), each with the samplers that fit it, come into the same table.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from measuring import machine
from numpy import ndarray

from genodiff.batch import TokenBatch
from genodiff.data import DnaTokenizer, SequenceData, fasta_data
from genodiff.diffusion import (
    Absorbing,
    Analytic,
    Ancestral,
    BlockByBlock,
    BlockDenoiser,
    CausalModel,
    EntropyBounded,
    FirstHitting,
    LeftToRight,
    Parallel,
    PlaidModel,
    PlaidSampler,
    PredictorCorrector,
    Remasking,
    Sampler,
    Stepwise,
    Threshold,
)
from genodiff.evaluation import (
    MarkovModel,
    composition,
    divergence,
    estimator_for,
    fit_markov,
    kmer_spectra,
    nelbo,
    noise_floors,
)
from genodiff.files import write_text
from genodiff.tasks.draw import draw_sequences, masks
from genodiff.tasks.model import Model, load_model

# Of a number of evaluations a sequence. Those that choose it themselves have it only roughly.
MASKED: dict[str, Callable[[int], Sampler]] = {
    "ancestral": Ancestral,
    "parallel": Parallel,
    "parallel_cosine": lambda n: Parallel(n, "cosine"),
    "confidence": lambda n: Parallel(n, "cosine", "confidence"),
    "margin": lambda n: Parallel(n, "cosine", "margin"),
    "entropy": lambda n: Parallel(n, "cosine", "entropy"),
    "remasking_cap": lambda n: Remasking(n, strategy="cap"),
    "remasking_rescale": lambda n: Remasking(n, strategy="rescale"),
    "remasking_conf": lambda n: Remasking(n, strategy="conf"),
    "remasking_loop": lambda n: Remasking(n, strategy="loop"),
    "predictor_corrector": lambda n: PredictorCorrector(max(n // 2, 1)),
    "analytic": Analytic,
}
UNIFORM: dict[str, Callable[[int], Sampler]] = {
    "stepwise": Stepwise,
    "predictor_corrector": MASKED["predictor_corrector"],
}
# Of masked models, without a number of evaluations to choose.
ADAPTIVE: dict[str, Sampler] = {
    "first_hitting": FirstHitting(),
    "threshold_0.5": Threshold(0.5),
    "threshold_0.9": Threshold(0.9),
    "entropy_bounded_1": EntropyBounded(1.0),
    "entropy_bounded_10": EntropyBounded(10.0),
}


def main() -> None:
    """Parses the command line, draws, judges, prints and writes."""
    parser = argparse.ArgumentParser(description="Samplers of one trained model.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--judge", type=Path)
    parser.add_argument("--fasta", required=True)
    parser.add_argument("--bed", required=True)
    parser.add_argument("--cache-dir")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--samplers", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    data = fasta_data(
        arguments.fasta, arguments.bed, arguments.length, 16, cache_dir=arguments.cache_dir
    )
    bench = Bench(data, arguments.judge, arguments.count, arguments.seed, device)
    model = load_model(arguments.checkpoint, device)
    settings = {
        "length": arguments.length,
        "seed": arguments.seed,
        "judge": arguments.judge and arguments.judge.name,
        "fasta": Path(arguments.fasta).name,
    }
    rows = _measured(arguments.out, settings)

    def add(row: dict[str, Any], tokens: Int[ndarray, "n l"]) -> None:
        rows.append({**row, **bench.judge(tokens)})
        print(_line(rows[-1]), flush=True)
        if arguments.out is not None:
            report = {"split": "test", **settings, "machine": machine(device), "rows": rows}
            write_text(arguments.out, json.dumps(report, indent=2) + "\n")

    def missing(row: dict[str, Any]) -> bool:
        return not any(row.items() <= done.items() for done in rows)

    real = {"sampler": "real windows", "count": arguments.count}
    if missing(real):
        add(real, bench.real)
    chosen = samplers_of(model, arguments.evaluations, arguments.length)
    if unknown := set(arguments.samplers or ()) - {name for name, _ in chosen}:
        raise SystemExit(f"{', '.join(unknown)}: not for this model; it has {dict(chosen).keys()}")
    for batch in arguments.batch:
        for name, sampler in chosen:
            if arguments.samplers and name not in arguments.samplers:
                continue
            row = {
                "sampler": name,
                "model": arguments.checkpoint.name,
                "count": arguments.count,
                "steps": getattr(getattr(sampler, "sampler", sampler), "steps", None),
                "batch": batch,
            }
            if not missing(row):
                continue
            started = time.process_time()
            drawn = draw_sequences(
                model,
                model.denoiser,
                sampler,
                masks(model, arguments.count, arguments.length),
                seed=arguments.seed,
                batch_size=batch,
            )
            row["cpu_seconds"] = round(time.process_time() - started, 1)
            row["evaluations_a_sequence"] = drawn.network_evaluations / arguments.count
            add({**row, **drawn.cost()}, drawn.tokens.numpy())


def samplers_of(
    model: Model, evaluations: Sequence[int], length: int
) -> list[tuple[str, Sampler]]:
    """The samplers that fit a model, those that take a number of evaluations for each of them."""
    denoiser = model.denoiser
    if isinstance(denoiser, CausalModel):
        return [("left_to_right", LeftToRight())]
    if isinstance(denoiser, PlaidModel):
        mask = model.tokenizer.mask_id
        return [("plaid", PlaidSampler(mask, n)) for n in evaluations]
    if isinstance(denoiser, BlockDenoiser):
        blocks = -(-length // denoiser.block_length)
        steps = [max(n // blocks, 1) for n in evaluations]
        return [("block_by_block", BlockByBlock(Parallel(n))) for n in dict.fromkeys(steps)]
    if not isinstance(denoiser.process, Absorbing):
        return [(name, make(n)) for n in evaluations for name, make in UNIFORM.items()]
    return [(name, make(n)) for n in evaluations for name, make in MASKED.items()] + [
        *ADAPTIVE.items()
    ]


def _measured(out: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that `out` holds already."""
    if out is None or not out.exists():
        return []
    before = json.loads(out.read_text())
    for key, value in settings.items():
        if before[key] != value:
            raise SystemExit(f"{out} was measured with {key}={before[key]}, not {value}.")
    return before["rows"]


class Bench:
    """What samples are held against."""

    def __init__(
        self,
        data: SequenceData,
        judge: Path | None,
        count: int,
        seed: int,
        device: torch.device,
    ) -> None:
        assert isinstance(data.tokenizer, DnaTokenizer)  # by fasta_data
        windows = np.concatenate([b.tokens.numpy() for b in data.eval_loader("test")])
        self.ids: Sequence[int] = data.tokenizer.data_ids[:4]
        order = np.random.default_rng(seed).permutation(len(windows))
        self.real, self.others = windows[order[:count]], windows[order[count:]]
        train = (row for b in data.eval_loader("train") for row in b.tokens.numpy())
        self.markov: MarkovModel = fit_markov(
            train, data_ids=self.ids, complement=data.tokenizer.complement
        )
        self.network: Model | None = None if judge is None else load_model(judge, device)
        self.device = device
        self.spectra = self._spectra(self.others)
        self.floors = noise_floors(
            list(self.others), (3, 6), size=count, data_ids=self.ids, both_strands=True
        )

    def judge(self, tokens: Int[ndarray, "n l"]) -> dict[str, Any]:
        """Figures of samples, each with its uncertainty."""
        gc = composition(list(tokens), data_ids=self.ids).measures["gc"]
        markov = self.markov.nats(tokens)
        figures: dict[str, Any] = {
            "gc": gc.value,
            "gc_standard_error": gc.standard_error,
            "markov_11_nats": float(markov.nats_per_token[-1]),
            "markov_11_standard_error": None
            if markov.standard_error_data is None
            else float(markov.standard_error_data[-1]),
            "new_12_mers": _new_words(tokens, 12),
        }
        spectra = self._spectra(tokens)
        for k, reference in self.spectra.items():
            apart = divergence(spectra[k], reference)
            figures[f"js_{k}"] = {
                "bits": apart.bits,
                "confidence_95": list(apart.confidence_95),
                "noise_floor": self.floors[k].bits,
            }
        if self.network is not None:
            rows = torch.from_numpy(tokens.astype(np.int64))
            batches = [
                TokenBatch(part, torch.isin(part, torch.tensor(self.ids)).float())
                for part in rows.split(16)
            ]
            model = self.network
            found = nelbo(
                model.denoiser,
                batches,
                estimator=estimator_for(model.objective, model.denoiser),
                device=self.device,
            )
            figures["judge_nats"] = found.nats_per_token
            figures["judge_standard_error"] = found.standard_error
            figures["judge_standard_error_data"] = found.standard_error_data
        return figures

    def _spectra(self, tokens: Int[ndarray, "n l"]) -> dict[int, Any]:
        return kmer_spectra(list(tokens), (3, 6), data_ids=self.ids, both_strands=True)


def _new_words(tokens: Int[ndarray, "n l"], k: int) -> float:
    """Of the words of k letters, the share that occur nowhere else among the sequences."""
    views = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64), k, axis=1)
    codes = (views * np.uint64(12) ** np.arange(k, dtype=np.uint64)).sum(-1).ravel()
    return float((np.unique(codes, return_counts=True)[1] == 1).sum() / len(codes))


def _line(row: dict[str, Any]) -> str:
    cost = ""
    if "batch" in row:
        cost = (
            f" batch {row['batch']:<3} {row['evaluations_a_sequence']:7.1f} evaluations "
            f"{row['seconds']:7.1f} s"
        )
    judge = f" judge {row['judge_nats']:.4f}" if "judge_nats" in row else ""
    return (
        f"{row['sampler']:<20}{cost}  GC {row['gc']:.3f}  order 11 {row['markov_11_nats']:.4f}"
        f"{judge}  JS3 {row['js_3']['bits']:.2e}  JS6 {row['js_6']['bits']:.2e}  "
        f"new 12-mers {row['new_12_mers']:.3f}"
    )


if __name__ == "__main__":
    main()
