"""A model of genodiff as the lm-evaluation-harness asks models (pip install 'genodiff[harness]').

  python -m genodiff.tasks.lm_harness run --model genodiff --tasks lambada_openai,arc_easy \\
      --model_args checkpoint=runs/a,samples=128 --batch_size 32

is the harness' own command line with one more model; `GenodiffLM` is that model for its Python
interface. Model arguments are those of `GenodiffLM`.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from hydra import compose, initialize_config_dir
from jaxtyping import Int
from omegaconf import OmegaConf
from torch import Tensor

from genodiff import __version__
from genodiff.config import config_dir
from genodiff.data import TextTokenizer
from genodiff.errors import UserError
from genodiff.evaluation import (
    CompleteChain,
    ConditionalLikelihood,
    conditional_likelihood,
    estimator_for,
)
from genodiff.tasks.build import check_arguments, select_device
from genodiff.tasks.design import Design, described
from genodiff.tasks.draw import draw_sequences, masks
from genodiff.tasks.model import data_of, load_model, require_length

log = logging.getLogger(__name__)

BATCH_SIZE = 32
"""What the harness' `auto` means."""


try:
    _LM: Any = import_module("lm_eval.api.model").LM
except ImportError:  # said when a model is made
    _LM = object


class GenodiffLM(_LM):
    """Likelihoods and continuations of text by a checkpoint of genodiff's.

    A *log-likelihood* is of a continuation given its context, which stays as it is: -log p of
    left-to-right models, and of others what `likelihood` says. Contexts that are too long lose
    their beginning. Whether a continuation is *greedy* is whether the sampler at temperature 0
    writes it. What was asked for is in the harness' results, under `config`.

    Args:
        checkpoint: a run folder, a .ckpt or a model folder, of text.
        likelihood: "auto" is what fits the model (of masked diffusion the any-order bound, by
            exactly-k masks in the continuation); "chain" is -log p in the order from left to
            right, n evaluations for n tokens.
        samples: draws of the bound.
        length: tokens that the model is shown at most; None for those of its training. A model
            folder does not know that and needs it.
        window: tokens that `generate_until` draws before it looks for a stop.
        begin: put the tokenizer's token for beginnings in front, if it has one, as the rows of
            published training data do.
        batch_size, max_batch_size, device: of the harness' command line.
        seed: of the draws.
        design: keys of `genodiff sample`, such as sampler= and steps=.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        likelihood: Literal["auto", "chain"] = "auto",
        samples: int = 128,
        length: int | None = None,
        window: int = 32,
        begin: bool = True,
        batch_size: int | str = BATCH_SIZE,
        max_batch_size: int | None = None,
        device: str | None = None,
        seed: int = 0,
        **design: Any,
    ) -> None:
        given = {key: value for key, value in locals().items() if key[0] != "_" and key != "self"}
        _harness("api.model")
        super().__init__()
        check_arguments(GenodiffLM, given, where="")
        for name in ("samples", "window"):
            if given[name] < 1:
                raise UserError(f"{name}={given[name]} must be at least 1.")
        self._design = _designed(design)
        self._device = select_device("auto") if device is None else torch.device(device)
        self.model = load_model(Path(checkpoint), self._device)
        if not isinstance(self.model.tokenizer, TextTokenizer):
            raise UserError(
                f"checkpoint={checkpoint} reads tokens of {type(self.model.tokenizer).__name__}, "
                "and the harness asks of text; give a model of text."
            )
        self.tokenizer: TextTokenizer = self.model.tokenizer
        auto = isinstance(batch_size, str) and batch_size.startswith("auto")
        self.batch_size = (max_batch_size or BATCH_SIZE) if auto else int(batch_size)
        self.length = _length(checkpoint, self.model.network.max_length, length)
        require_length(self.model, self.length, "length")
        begins = begin and self.tokenizer.bos_id is not None
        self._start: list[int] = [self.tokenizer.bos_id or 0] if begins else []
        own = estimator_for(self.model.objective, self.model.denoiser)
        exact = own.exact or likelihood == "auto"
        self.estimator = own if exact else CompleteChain()
        self.estimator.check(self.model.denoiser)
        self.samples, self.window, self.seed = samples, window, seed
        self._draws = 0
        log.info("%s", self.get_model_info())

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        return {
            "genodiff": __version__,
            "likelihood": self.estimator.name,
            "bound": self.estimator.bound,
            "samples": None if self.estimator.exact else self.samples,
            "length": self.length,
            "sampler": described(self._design.built_sampler(self.model)),
        }

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log p(continuation | context) in nats, whether it is greedy) of each request."""
        answers = []
        for request in requests:
            context, continuation = self._pair(*request.args)
            context = self._fitting(context, len(continuation))
            written = self._drawn(context, len(continuation), temperature=0.0)
            answers.append((self._told(context, continuation).log_p, written == continuation))
            self.cache_hook.add_partial("loglikelihood", request.args, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """log p of each text, a window at a time: each token in one window, and the last window
        given as much of what precedes it as fits."""
        answers = []
        for request in requests:
            tokens = self._encoded(request.args[0])
            size = self.length - len(self._start)
            log_p = 0.0
            for first in range(0, len(tokens), size):
                last = min(first + size, len(tokens))
                context = self._start + tokens[max(last - size, 0) : first]
                log_p += self._told(context, tokens[first:last]).log_p
            answers.append(log_p)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, log_p)
        return answers

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """What the model writes behind each context, up to the first stop.

        Of the harness' options `until`, `max_gen_toks` (256), `do_sample`, `temperature` and
        `top_p` are heard; without `do_sample` the temperature is 0.
        """
        answers = []
        for request in requests:
            context, options = request.args
            answers.append(self._written(self._encoded(context), options))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def _written(self, prompt: list[int], options: dict[str, Any]) -> str:
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else until
        limit = int(options.get("max_gen_toks", 256))
        sampled = bool(options.get("do_sample", False))
        temperature = float(options.get("temperature", 1.0)) if sampled else 0.0
        nucleus = float(options.get("top_p", 1.0)) if sampled else 1.0
        written: list[int] = []
        while len(written) < limit:
            count = min(self.window, limit - len(written), self.length - len(self._start))
            context = self._fitting(self._start + prompt + written, count)
            written += self._drawn(context, count, temperature=temperature, nucleus=nucleus)
            text, stopped = self._cut(written, until)
            if stopped:
                return text
        return self._cut(written, until)[0]

    def _cut(self, tokens: list[int], until: Sequence[str]) -> tuple[str, bool]:
        """The text before the first stop or the end of the document, and whether there is one."""
        end = self.tokenizer.eos_id
        ended = end in tokens
        text = self.tokenizer.decode(tokens[: tokens.index(end)] if ended else tokens)
        stops = [at for at in map(text.find, filter(None, until)) if at >= 0]
        return text[: min(stops, default=len(text))], ended or bool(stops)

    def _drawn(
        self, context: list[int], count: int, *, temperature: float, nucleus: float = 1.0
    ) -> list[int]:
        """So many tokens that the sampler writes behind the context."""
        design = replace(self._design, temperature=temperature, nucleus=nucleus)
        row = torch.cat([torch.tensor(context, dtype=torch.long), masks(self.model, 1, count)[0]])
        drawn = draw_sequences(
            self.model,
            design.denoiser(self.model, row),
            design.built_sampler(self.model),
            row[None],
            seed=self.seed + self._draws,
        )
        self._draws += temperature > 0  # asked again, a sample is another
        return drawn.tokens[0, len(context) :].tolist()

    def _told(self, context: list[int], continuation: list[int]) -> ConditionalLikelihood:
        return conditional_likelihood(
            self.model.denoiser,
            self._ids(context),
            self._ids(continuation),
            estimator=self.estimator,
            samples=self.samples,
            batch_size=self.batch_size,
            seed=self.seed,
        )

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Both as the tokens that they are together; spaces where they meet are the
        continuation's."""
        kept = context.rstrip()
        continuation = context[len(kept) :] + continuation
        before = self._encoded(kept)
        behind = self._encoded(kept + continuation)[len(before) :]
        if not behind:
            raise UserError(f"the continuation {continuation!r} of a request is of no token.")
        return self._start + before, behind

    def _fitting(self, context: list[int], count: int) -> list[int]:
        """The end of the context that leaves room for so many tokens, behind the beginning."""
        begun = len(self._start)
        room = self.length - begun - count
        if room < 0:
            raise UserError(
                f"a continuation of {count} tokens does not fit into length={self.length}; give a "
                "longer one, if the model can take it."
            )
        kept = context[begun:]
        return self._start + kept[max(len(kept) - room, 0) :]

    def _encoded(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).tolist()

    def _ids(self, tokens: list[int]) -> Int[Tensor, " l"]:
        return torch.tensor(tokens, dtype=torch.long, device=self._device)


def _harness(module: str) -> Any:
    """A module of the harness."""
    try:
        return import_module(f"lm_eval.{module}")
    except ImportError as error:
        raise UserError(
            "the lm-evaluation-harness is not installed; pip install 'genodiff[harness]'."
        ) from error


def _designed(keys: dict[str, Any]) -> Design:
    """The keys of `sample` that say how tokens are drawn, the others at their defaults."""
    names = [field.name for field in fields(Design)]
    for key in keys:
        if key not in names:
            raise UserError(
                f"unknown model argument {key}=; GenodiffLM takes its own and these of sample: "
                f"{', '.join(names)}."
            )
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("sample", overrides=[f"{key}={value}" for key, value in keys.items()])
    every: Any = OmegaConf.to_container(config)
    design = Design(**{name: every[name] for name in names})
    design.check()
    return design


def _length(checkpoint: str, positions: int | None, length: int | None) -> int:
    if length is not None:
        return length
    if positions is not None:
        return positions
    try:
        return int(data_of(Path(checkpoint))["length"])
    except UserError as error:
        raise UserError(
            f"checkpoint={checkpoint} is a model folder and does not know the length it was "
            "trained with; give length=, e.g. length=1024."
        ) from error


if __name__ == "__main__":
    try:
        _harness("api.registry").register_model("genodiff")(GenodiffLM)
        _harness("__main__").cli_evaluate()
    except UserError as error:
        print(f"genodiff lm_harness: {error}", file=sys.stderr)
        sys.exit(2)
