"""Train a model: any backbone, objective and schedule, on windows of a genome or on text.

usage: genodiff train data=fasta data.fasta=FILE data.bed=FILE out=RUN [key=value ...]

example:
  genodiff train data=fasta data.fasta=hg38.fa.gz data.bed=splits.bed data.length=1024 \\
      backbone=caduceus trainer.max_steps=2000 out=runs/a

keys:
  out=RUN             folder for config.yaml, manifest.json, metrics.csv, checkpoints, tensorboard
  resume=RUN          go on with a run that was stopped, by its own config
  init=CHECKPOINT     start from the weights of a run folder, a .ckpt or a model folder
  experiment=NAME     a ready configuration (configs/experiment)
  data=NAME           fasta (the default), hg38, species, synthetic; text, hub_text, and corpora:
                      lm1b, lm1b_packed, owt, text8, wikitext2, wikitext103, ptb, lambada, ag_news,
                      arxiv, pubmed, fineweb_edu
    of fasta          data.fasta=FILE (plain, bgzip, gzip) data.bed=FILE (columns, with tabs
                      between: chrom, start, end, split; 0-based, half-open; split is train, valid
                      or test) data.length= (1024) data.batch_size= (8) data.stride= (the length)
                      data.jitter= (0) data.reverse_complement= (true: a random strand in training)
                      data.soft_mask_weight= (1) data.max_n_fraction= (0.5) data.predict_n=
                      data.split_policy=strict|caduceus data.num_workers= data.cache_dir=
    of text           data.train=FILE data.valid=FILE data.test=FILE (UTF-8, plain or gzip, with
                      blank lines between documents; .jsonl; .parquet) data.tokenizer= (bytes; a
                      name or a folder) data.length= (128)
  backbone=NAME       caduceus, caduceus_ps, mamba (left to right), dimamba, dimamba_tiny, dit,
                      dit_tiny, dit_small, dit_medium, ar_tiny, ar_small, ar_medium, bert; keys
                      such as backbone.d_model= backbone.n_layers=; or trained: that of init=
  time_conditioning=true  tell the network the time (dimamba, dit)
  objective=NAME      mdlm, mdlm_importance, mdlm_discrete, exactly_k, low_variance, md4, genmd4,
                      d3pm, sedd, sedd_uniform, udlm, udlm_discrete, gidd, block_diffusion, plaid,
                      mlm; next_token (left to right: backbone=mamba, ar_tiny, ...)
  schedule=NAME       loglinear, linear, cosine, cosine_squared, geometric, polynomial, md4_linear,
                      md4_cosine
  optimizer.lr=       peak of AdamW's rate (0.004); also optimizer.weight_decay= (0.1)
                      optimizer.warmup_fraction= (0.05) optimizer.min_lr_ratio= (0.05)
  trainer.max_steps=  optimizer steps (2000), each of data.batch_size= sequences; steps between:
                      trainer.log_every= (20) trainer.validate_every= (200; of
                      trainer.validate_sequences=256) trainer.checkpoint_every= (100)
                      trainer.sample_every= (0: never); also trainer.ema_decay= (0.999)
                      trainer.gradient_clip= (1) trainer.precision=auto|32-true|bf16-mixed
  trainer.devices=    how many processes share a batch, one a device: auto (all GPUs; one process
                      on a CPU; what torchrun or SLURM has started) or a number
  trainer.micro_batch=  the most sequences that a device takes at once, where memory is short;
                      trainer.strategy=fsdp shares the model out, where it does not fit;
                      trainer.compile=true fuses a transformer's blocks (torch.compile)
  sample_length=      length of the samples shown during training (default: the window length)
  seed= device=auto|cpu|cuda overwrite=true

Stopped by Ctrl-C, SIGTERM or a crash, a run goes on with `genodiff train resume=RUN` and ends, on
a CPU, with the same weights and metrics, bit for bit, as if it had never stopped. Where a step is
computed changes its result by rounding only, but for dropout (dit, dimamba, ar), which is drawn
for what a device takes at once: trainer.devices=, trainer.num_nodes=, trainer.strategy=,
trainer.micro_batch= and trainer.compile= may be given with resume= too.

several machines:
  srun genodiff train experiment=NAME out=RUN            in an sbatch script with --nodes=2
                      --ntasks-per-node=8 --gpus-per-node=8 --signal=TERM@120
  torchrun --nnodes=2 --nproc-per-node=8 ... -m genodiff.tasks.train experiment=NAME out=RUN
  genodiff train --multirun hydra/launcher=slurm hydra.launcher.nodes=2 experiment=NAME out=RUN
                      submits such a job itself (pip install 'genodiff[slurm]')
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import nn

from genodiff import __version__
from genodiff.data import SequenceData, TokenIds
from genodiff.diffusion import Ancestral
from genodiff.errors import OutsideError, UserError
from genodiff.evaluation import estimator_for, nelbo
from genodiff.files import claim_folder, free_space, is_disk_trouble, write_text
from genodiff.ranks import Ranks, is_first
from genodiff.tasks.build import Node, build, build_data, select_device, with_absolute_paths
from genodiff.tasks.draw import draw_sequences, masks, text_of
from genodiff.tasks.launch import command_line, launch, user_overrides
from genodiff.tasks.model import (
    Model,
    build_model,
    describe,
    description_of,
    load_model,
    load_weights,
    require_length,
    require_tokens,
    told_as,
)
from genodiff.tasks.provenance import provenance
from genodiff.training import (
    DivergedError,
    Fitted,
    GenerativeModule,
    Plan,
    Score,
    compile_blocks,
    fit,
    newest_checkpoint,
)

log = logging.getLogger(__name__)

TRAINED = {"_target_": None}
"""backbone=trained."""
WHERE = ("devices", "num_nodes", "strategy", "micro_batch", "compile")
"""The keys of trainer that say where a step is computed, and not what."""


def main(
    *,
    out: str | None,
    resume: str | None,
    init: str | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
    sample_length: int | None,
    data: Node,
    backbone: Node,
    schedule: Node | None,
    process: Node | None,
    parameterization: Node | None,
    denoiser: Node,
    objective: Node,
    time_conditioning: bool,
    optimizer: Node,
    trainer: Node,
) -> int:
    """Starts a run, or goes on with one. Returns 130 if a signal ended it before its last step."""
    if resume is not None:
        return resume_run(Path(resume), device, trainer)
    if out is None:
        raise UserError(
            "out= is required: the folder of the run (or resume=RUN to go on with one)."
        )
    config = {
        "seed": seed,
        "init": init and str(Path(init).absolute()),
        "sample_length": sample_length,
        "data": with_absolute_paths(data),
        "backbone": _trained_backbone(init) if backbone == TRAINED else backbone,
        "schedule": schedule,
        "process": process,
        "parameterization": parameterization,
        "denoiser": denoiser,
        "objective": objective,
        "time_conditioning": time_conditioning,
        "optimizer": optimizer,
        "trainer": trainer,
    }
    _refuse_idle(config)
    chosen = select_device(device)
    # Everything is built before anything is written: a mistake in the config costs nothing.
    parts = assemble(config)
    parts.fit_to(chosen)
    run = claim_folder(Path(out), overwrite=overwrite) if is_first() else Path(out)
    return start(parts, config, run, chosen)


def _refuse_idle(config: dict[str, Any]) -> None:
    """Refuses a word on the command line that this objective has no use for."""
    for key in ("schedule", "process", "parameterization"):
        for word in user_overrides():
            if config[key] is None and word.split("=")[0].split(".")[0] == key:
                name = config["objective"]["_target_"].rpartition(".")[2]
                raise UserError(f"{word} does nothing: {name} has no {key}; leave it out.")


def _trained_backbone(init: str | None) -> Node:
    """The network of init=."""
    if init is None:
        raise UserError("backbone=trained is the network of init=; give init=, or another one.")
    with told_as("init"):
        return description_of(Path(init))["backbone"]


def start(parts: "Parts", config: dict[str, Any], run: Path, device: torch.device) -> int:
    """A new run of `parts`, which `config` describes, in the folder `run`. Returns as `main`."""
    with outside_troubles(run):
        if is_first():
            run.mkdir(parents=True, exist_ok=True)
            manifest = provenance(
                seed=config["seed"],
                device=device,
                parameters=sum(p.numel() for p in parts.module.parameters()),
                data=parts.data.describe(),
            )
            write_text(run / "manifest.json", json.dumps(manifest, indent=2) + "\n")
            # Last: a folder with a config.yaml is a run that can be resumed.
            write_text(run / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        return _finish(run, parts, _fit(parts, run, device, resume=None))


def resume_run(run: Path, device: Literal["auto", "cpu", "cuda"], trainer: Node) -> int:
    """Goes on with the run in the folder `run`, from its last checkpoint (or the start, if it has
    none), on the devices that `trainer` was given on the command line."""
    free = ("resume", "device", *(f"trainer.{key}" for key in WHERE))
    foreign = [word for word in user_overrides() if word.partition("=")[0] not in free]
    if foreign:
        raise UserError(
            f"{foreign[0]} does not go with resume=, which continues {run} with its own config; "
            f"leave it out, or start another run with init={run}."
        )
    if not (run / "config.yaml").is_file():
        raise UserError(f"resume={run} is not a run folder (no config.yaml in it).")
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    for word in user_overrides():
        key = word.partition("=")[0].removeprefix("trainer.")
        if key in WHERE:
            config["trainer"][key] = trainer[key]
    chosen = select_device(device)
    newest = newest_checkpoint(run / "checkpoints")
    if newest is None:
        log.info("%s has no checkpoint yet: starting from step 0.", run)
        parts = assemble(config)
    else:
        if newest.step < config["trainer"]["max_steps"]:
            log.info("going on from step %d of %s.", newest.step, newest.path)
        else:
            log.info("%s is at its last step; for more start another with init=%s.", run, run)
        parts = assemble({**config, "init": None})
    parts.fit_to(chosen)
    with outside_troubles(run):
        return _finish(run, parts, _fit(parts, run, chosen, resume=newest and newest.path))


@contextmanager
def outside_troubles(run: Path, command: str | None = None) -> Iterator[None]:
    """Tells what nobody here can help in one line, with what there is to go on from, and the
    `command` that does; None is that of training."""
    try:
        yield
    except Exception as error:
        trouble = _outside_trouble(error, run)
        if trouble is None:
            raise
        way_on = _way_on(run, command or f"genodiff train resume={run}")
        raise OutsideError(f"{trouble} {way_on}") from error


def _outside_trouble(error: BaseException, run: Path) -> str | None:
    """A full or failing disk or a loader's process that was killed, if `error` comes of one."""
    if isinstance(error, OutsideError):
        return str(error)
    if isinstance(error, OSError) and is_disk_trouble(error):
        what = error.filename or "a file"
        return f"{what} cannot be written ({error.strerror}; {free_space(run)})."
    # torch raises a RuntimeError wherever Python happens to be when a worker dies, be it inside of
    # something that makes another error of it; or the pipe to the worker ends first.
    cause: BaseException | None = error
    while cause is not None:
        lost = isinstance(cause, EOFError | ConnectionError)
        if lost or str(cause).startswith("DataLoader worker"):
            what = "DataLoader worker went away" if lost else str(cause).splitlines()[0]
            return (
                f"{what.rstrip('. ')}, usually for want of memory; if it happens again, lower "
                f"num_workers in {run}/config.yaml."
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _way_on(run: Path, command: str) -> str:
    newest = newest_checkpoint(run / "checkpoints")
    if newest is None:
        return "No checkpoint was written yet: start again."
    return f"Step {newest.step} is saved; go on with: {command}"


class Parts:
    """What a training config builds."""

    def __init__(
        self,
        data: SequenceData,
        model: Model,
        module: GenerativeModule,
        plan: Plan,
        sample_length: int,
    ) -> None:
        self.data, self.model, self.module = data, model, module
        self.plan, self.sample_length = plan, sample_length

    def fit_to(self, device: torch.device) -> None:
        """Readies them for devices of that kind. Raises UserError if the plan is none for them."""
        self.plan.processes(device).share(self.data.batch_size)
        if self.plan.compile:
            compile_blocks(self.model.network, device)


def assemble(config: dict[str, Any]) -> Parts:
    """Data, model, module and plan of a training config, the weights drawn from its seed."""
    seed = config["seed"]
    data = build_data(config["data"], SequenceData, seed=seed)
    for split in ("train", "valid"):
        data.dataset(split)  # a missing one is refused now, not after an hour
    plan: Plan = build(config["trainer"], where="trainer")
    torch.manual_seed(seed)
    model = build_model(describe(config, data.tokenizer))
    sample_length = config["sample_length"]
    if sample_length is None:
        sample_length = data.length
    if sample_length < 1:
        raise UserError(
            f"sample_length={sample_length} is no length of a sequence; give 1 or more."
        )
    require_length(model, data.length, "data.length")
    require_length(model, sample_length, "sample_length")
    classes = getattr(model.network, "classes", None)
    if data.n_labels > (0 if classes is None else classes.no_class):
        raise UserError(
            f"the data have {data.n_labels} labels, and this {type(model.network).__name__} is "
            f"told no such classes; give backbone=dimamba or dit with backbone.n_classes="
            f"{data.n_labels}, or data.labelled=false."
        )
    if config["init"] is not None:
        with told_as("init"):
            source = load_model(Path(config["init"]), torch.device("cpu"))
        if not isinstance(source.tokenizer, TokenIds):  # whose ids may be any tokens
            require_tokens(source, data.tokenizer, f"init={config['init']}")
        # What a model learns beside its network (a schedule, say) goes with its own kind alone.
        kinds = [
            [m.description[part] for part in ("denoiser", "process")] for m in (model, source)
        ]
        same = kinds[0] == kinds[1]
        load_weights(
            model.denoiser if same else model.network,
            (source.denoiser if same else source.network).state_dict(),
            f"init={config['init']} does not fit the network that backbone= gives",
            way_out=" With backbone=trained the run has the network of init=.",
        )
    if plan.sample_every:
        model.require_denoiser("trainer.sample_every")
    module = GenerativeModule(
        model.denoiser,
        model.objective,
        optimizer=build(config["optimizer"], where="optimizer"),
        max_steps=plan.max_steps,
        micro_batch=plan.micro_batch,
        gradient_clip=plan.gradient_clip,
        ema_decay=plan.ema_decay,
        seed=seed,
        description={"model": model.description, "data": config["data"], "version": __version__},
    )
    return Parts(data, model, module, plan, sample_length)


def validation(
    data: SequenceData, sequences: int, model: Model
) -> Callable[[nn.Module, Ranks], Score]:
    """Scores a model on `sequences` windows spread evenly over the validation split."""
    batches = list(data.eval_loader("valid", max_sequences=sequences))
    estimator = estimator_for(model.objective, model.denoiser)

    def score(it: nn.Module, ranks: Ranks) -> Score:
        found = nelbo(it, batches, estimator=estimator, repeats=8, seed=0, ranks=ranks)
        return Score(found.nats_per_token, found.standard_error)

    return score


def _fit(parts: Parts, run: Path, device: torch.device, resume: Path | None) -> Fitted:
    def preview(_: nn.Module) -> str:
        model = parts.model
        drawn = draw_sequences(
            model,
            model.require_denoiser("trainer.sample_every"),
            Ancestral(64),
            masks(model, 4, parts.sample_length),
            seed=0,
        )
        return text_of(drawn.sequences, parts.model.tokenizer, "preview steps=64 seed=0")

    try:
        return fit(
            parts.module,
            parts.data.train_loader,
            parts.plan,
            run,
            score=validation(parts.data, parts.plan.validate_sequences, parts.model),
            draw=preview,
            device=device,
            resume=resume,
        )
    except DivergedError as error:
        places = parts.data.locate_batch(error.step)
        blamed = ", ".join(places[row] for row in error.rows[:3])
        others = f" and {len(error.rows) - 3} others" if len(error.rows) > 3 else ""
        raise OutsideError(
            f"step {error.step + 1}: {error.what}, in {blamed}{others}; lower optimizer.lr, or "
            "look at these sequences."
        ) from error


def _finish(run: Path, parts: Parts, fitted: Fitted) -> int:
    if not is_first():
        return 0  # all of them ended alike, and the first one says how
    path = run / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["sessions"].append({"command": command_line(), **fitted._asdict()})
    write_text(path, json.dumps(manifest, indent=2) + "\n")
    if fitted.interrupted:
        log.info(
            "stopped at step %d of %d; go on with: genodiff train resume=%s",
            fitted.steps,
            parts.plan.max_steps,
            run,
        )
        return 130
    log.info(
        "%d steps, %s tokens, %.1f minutes, %s tokens/s. Weights: %s/checkpoints",
        fitted.steps,
        f"{fitted.tokens:,}",
        fitted.seconds / 60,
        f"{fitted.tokens_per_second:,.0f}",
        run,
    )
    return 0


if __name__ == "__main__":
    launch("train", main)
