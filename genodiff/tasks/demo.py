"""See it all in a few minutes: draw a genome, train, measure, sample, infill, report.

usage: genodiff demo out=DIR [key=value ...]

example:
  genodiff demo out=demo

keys:
  out=DIR             folder for report.html, samples.fa, metrics.json, model/ and the training run
  steps=              of training; the default takes about two minutes on two CPU cores
  seed= device=auto|cpu|cuda overwrite=true

The genome is drawn from a hidden Markov model (motifs on either strand, with mutations, in a
random background), so the probability of every window is known exactly. The report shows how near
to it the model comes, and how far Markov models of the same training data stay.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from genodiff import __version__
from genodiff.data import SequenceData, Split, SyntheticGenome
from genodiff.diffusion import Ancestral
from genodiff.errors import UserError
from genodiff.evaluation import Likelihood, divergence, kmer_spectra, nelbo, noise_floors
from genodiff.evaluation.figures import (
    Curve,
    Estimate,
    likelihood_figure,
    loss_figure,
    require_matplotlib,
    spectrum_figure,
)
from genodiff.evaluation.report import (
    Fact,
    Facts,
    InfilledStretch,
    Paragraph,
    Report,
    Section,
    SequencePreview,
)
from genodiff.files import claim_folder, write_text
from genodiff.tasks.build import Node, select_device
from genodiff.tasks.draw import Drawn, draw_sequences, fasta_text, masks
from genodiff.tasks.evaluate import markov_baselines
from genodiff.tasks.formulation import SUBS
from genodiff.tasks.launch import command_line, launch
from genodiff.tasks.model import Model, load_model, save_model
from genodiff.tasks.train import assemble, start
from genodiff.training import read_metrics

log = logging.getLogger(__name__)

LENGTH = 256
"""Bases a window."""
SAMPLES, SAMPLING_STEPS = 96, 128
INFILLED, INFILLS = 36, 4
"""Bases of the infilled stretch, and how often it is written anew."""


def main(
    *,
    out: str,
    steps: int,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> int:
    """Runs every stage and writes the report. Returns 130 if a signal ended the training."""
    began = time.monotonic()
    require_matplotlib()
    if steps < 1:
        raise UserError(f"steps={steps} must be at least 1.")
    chosen = select_device(device)
    folder = claim_folder(Path(out), overwrite=overwrite)
    # Whose folder this is, should the demo not come to its end.
    manifest = {"command": command_line(), "version": __version__, "seed": seed}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")

    log.info("1/5 drawing a genome whose law is known")
    law = SyntheticGenome(n_motifs=3, motif_length=24, motif_fraction=0.75, seed=seed)
    random = np.random.default_rng((seed, 1))
    records: dict[Split, int] = {"train": 48, "valid": 4, "test": 8}
    fasta, bed = law.write(folder / "genome", records, 65536, random)

    log.info("2/5 training a small Caduceus on it")
    config = training_config(fasta, bed, folder / "genome", steps, seed)
    parts = assemble(config)
    if code := start(parts, config, folder / "run", chosen):
        return code
    model = load_model(folder / "run", chosen)
    save_model(model, folder / "model")

    log.info("3/5 measuring its likelihood against the truth")
    windows = test_windows(parts.data)
    likelihood = nelbo(model.denoiser, parts.data.eval_loader("test"), seed=seed, device=chosen)
    baselines = markov_baselines(parts.data, "test", None)
    truth = float(-law.log_likelihood(windows).sum() / windows.size)
    entropy = law.entropy(4096, LENGTH, random)

    log.info("4/5 sampling")
    drawn = draw_sequences(
        model,
        model.require_denoiser("demo"),
        Ancestral(SAMPLING_STEPS),
        masks(model, SAMPLES, LENGTH),
        seed=seed,
        batch_size=32,
    )
    provenance = f"model=demo seed={seed} steps={SAMPLING_STEPS} genodiff={__version__}"
    write_text(folder / "samples.fa", fasta_text(drawn.sequences, provenance))

    log.info("5/5 infilling, and the report")
    stretch = infill(model, windows, law, seed)
    spectra = compare_spectra(drawn, law, model, random)
    metrics = {
        "truth": {
            "nats_per_base": truth,
            "perplexity": float(np.exp(truth)),
            "note": "exact -log p of the test windows under the law that drew them",
            "entropy_rate": entropy.nats_per_base,
            "entropy_rate_standard_error": entropy.standard_error,
        },
        "model": likelihood.summary(),
        "baselines": baselines,
        "gap_nats": likelihood.nats_per_token - truth,
        "gap_nats_best_markov_of_order_3_or_less": min(
            baselines[f"markov_{order}"]["nats_per_token"] for order in range(4)
        )
        - truth,
        "kmers": {
            str(k): {"divergence": _plain(result), "noise_floor": _plain(floor)}
            for k, (_, _, result, floor) in spectra.items()
        },
        "sampling": {
            "sequences": SAMPLES,
            "length": LENGTH,
            "steps": SAMPLING_STEPS,
            "network_evaluations": drawn.network_evaluations,
            "seconds": drawn.seconds,
        },
        "data": parts.data.describe(),
        "parameters": sum(p.numel() for p in model.denoiser.parameters()),
        "seed": seed,
        "seconds": time.monotonic() - began,
        "version": __version__,
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    report(folder, metrics, likelihood, spectra, stretch, drawn).write(folder / "report.html")
    log.info("%s\nreport: %s", headline(metrics), folder / "report.html")
    return 0


def training_config(fasta: Path, bed: Path, cache: Path, steps: int, seed: int) -> dict[str, Any]:
    """A small Caduceus on the drawn genome, in the words of `genodiff train`."""
    return {
        "seed": seed,
        "init": None,
        "sample_length": None,
        "data": {
            "_target_": "genodiff.data.fasta_data",
            "fasta": str(fasta),
            "bed": str(bed),
            "length": LENGTH,
            "batch_size": 16,
            "eval_batch_size": 32,
            "reverse_complement": True,
            "jitter": LENGTH // 2,
            "cache_dir": str(cache),
        },
        "backbone": {"_target_": "genodiff.backbones.Caduceus", "d_model": 64, "n_layers": 4},
        "schedule": {"_target_": "genodiff.diffusion.LogLinear"},
        **SUBS,
        "objective": {
            "_target_": "genodiff.diffusion.ContinuousNelbo",
            "times": {"_target_": "genodiff.diffusion.AntitheticTimes", "t_min": 1e-3},
        },
        "time_conditioning": False,
        "optimizer": {"_target_": "genodiff.training.AdamWCosine", "lr": 8e-3},
        "trainer": {
            "_target_": "genodiff.training.Plan",
            "max_steps": steps,
            "ema_decay": 0.99,
            "log_every": 10,
            "validate_every": max(1, steps // 10),
            "validate_sequences": 128,
            "checkpoint_every": max(1, steps // 4),
        },
    }


def test_windows(data: SequenceData) -> np.ndarray:
    """The ids (n, l) of all test windows."""
    return np.concatenate([batch.tokens.numpy() for batch in data.eval_loader("test")]).astype(
        np.uint8
    )


def infill(model: Model, windows: np.ndarray, law: SyntheticGenome, seed: int) -> InfilledStretch:
    """Masks the middle of the test window that is most ordered there, and writes it anew."""
    begin = (LENGTH - INFILLED) // 2
    end = begin + INFILLED
    # The surprise of the middle alone: what the law says of a window less what it says of its
    # flanks.
    candidates = windows[:256]
    surprise = law.log_likelihood(candidates[:, :begin]) - law.log_likelihood(candidates[:, :end])
    tokens = torch.from_numpy(candidates[int(surprise.argmin())].astype(np.int64))
    x = tokens.repeat(INFILLS, 1)
    x[:, begin:end] = model.tokenizer.mask_id
    denoiser = model.require_denoiser("demo")
    written = draw_sequences(model, denoiser, Ancestral(INFILLED), x, seed=seed).tokens
    text = model.tokenizer.decode(tokens)
    infills = [
        (f"infill {i + 1}", model.tokenizer.decode(row[begin:end]))
        for i, row in enumerate(written)
    ]
    return InfilledStretch(text[:begin], text[begin:end], text[end:], infills, start=begin)


def compare_spectra(
    drawn: Drawn, law: SyntheticGenome, model: Model, random: np.random.Generator
) -> dict[int, tuple[Any, Any, Any, Any]]:
    """For k = 3 and 6: spectrum of the samples, of fresh draws of the law, divergence, its noise
    floor."""
    ids = list(model.tokenizer.data_ids)
    reference = list(law.draw(4096, LENGTH, random))
    ks = (3, 6)
    sampled = kmer_spectra(drawn.sequences, ks)
    true = kmer_spectra(reference, ks, data_ids=ids)
    floors = noise_floors(reference, ks, size=SAMPLES, data_ids=ids)
    return {k: (sampled[k], true[k], divergence(sampled[k], true[k]), floors[k]) for k in ks}


def report(
    folder: Path,
    metrics: dict[str, Any],
    likelihood: Likelihood,
    spectra: dict[int, tuple[Any, Any, Any, Any]],
    stretch: InfilledStretch,
    drawn: Drawn,
) -> Report:
    """The page."""
    truth, baselines = metrics["truth"], metrics["baselines"]
    exact = Estimate("truth", truth["perplexity"])
    orders = [int(name.split("_")[1]) for name in baselines if name.startswith("markov_")]
    markov = [
        Estimate(f"Markov, order {order}", baselines[f"markov_{order}"]["perplexity"])
        for order in orders
    ]
    ours = Estimate(
        "Caduceus, masked diffusion", likelihood.perplexity, likelihood.perplexity_95, "model"
    )
    rows = read_metrics(folder / "run" / "metrics.csv")
    third = baselines["markov_3"]
    data = metrics["data"]["splits"]
    return Report(
        "genodiff demo",
        [
            Section(
                "What the model has learnt",
                [
                    Facts(
                        [
                            Fact("perplexity", f"{likelihood.perplexity:.3f}", _spell(likelihood)),
                            Fact("the truth", f"{truth['perplexity']:.3f}", "exact, same windows"),
                            Fact(
                                "Markov, order 3",
                                f"{third['perplexity']:.3f}",
                                "same training data",
                            ),
                            Fact("uniform", "4.000", "knowing nothing"),
                        ]
                    ),
                    Paragraph(
                        "The genome was drawn from a law with motifs on either strand, so the "
                        "probability of every "
                        "window is known. A model cannot be better than the truth; an upper bound "
                        "of -log p, as masked "
                        f"diffusion gives, lies above it. Here it lies {metrics['gap_nats']:.4f} "
                        "nats a base above; "
                        "the best Markov model of order 3 or less "
                        f"{metrics['gap_nats_best_markov_of_order_3_or_less']:.4f}. "
                        f"{likelihood.sequences:,} test windows of {LENGTH} bases, seed "
                        f"{metrics['seed']}. The entropy "
                        f"rate of the law is {truth['entropy_rate']:.4f} +- "
                        f"{truth['entropy_rate_standard_error']:.4f} nats a base (standard error)."
                    ),
                    likelihood_figure([ours, *markov], truth=exact),
                ],
            ),
            Section(
                "How it learnt",
                [
                    loss_figure(
                        _curve(rows, "train"),
                        _curve(rows, "valid"),
                        baselines=[Estimate("Markov, order 3", third["nats_per_token"])],
                        truth=Estimate("truth", truth["nats_per_base"]),
                        caption=f"{data['train']['bases']:,} training bases, "
                        f"{metrics['parameters']:,} parameters.",
                    )
                ],
            ),
            Section(
                "Samples against the law",
                [
                    *(
                        spectrum_figure(
                            sampled, true, divergence=result, floor=floor, names=("samples", "law")
                        )
                        for sampled, true, result, floor in spectra.values()
                    ),
                    SequencePreview(
                        [(f"sample_{i}", text) for i, text in enumerate(drawn.sequences[:4])]
                    ),
                ],
            ),
            Section(
                "An infilled stretch",
                [
                    Paragraph(
                        f"{INFILLED} bases of a test window were masked and written anew "
                        f"{INFILLS} times, given the "
                        "bases on both sides. A motif that begins outside is continued; "
                        "background is free."
                    ),
                    stretch,
                ],
            ),
        ],
        subtitle="A masked-diffusion model of a synthetic genome, against the law that drew it",
        footer=f"genodiff {__version__}, seed {metrics['seed']}, {metrics['seconds']:.0f} seconds",
    )


def headline(metrics: Node) -> str:
    """What a person reads first."""
    model, truth = metrics["model"], metrics["truth"]
    return (
        f"perplexity {model['perplexity']:.3f}; truth {truth['perplexity']:.3f}; "
        f"Markov order 3 {metrics['baselines']['markov_3']['perplexity']:.3f}; "
        f"{metrics['seconds']:.0f} seconds"
    )


def _curve(rows: list[dict[str, Any]], split: str) -> Curve:
    chosen = [row for row in rows if row["split"] == split]
    return Curve(
        np.array([row["step"] for row in chosen]),
        np.array([row["nats_per_token"] for row in chosen]),
    )


def _spell(likelihood: Likelihood) -> str:
    low, high = likelihood.perplexity_95
    return f"95 %: {low:.3f} to {high:.3f}"


def _plain(record: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in record._asdict().items()}


if __name__ == "__main__":
    launch("demo", main)
