"""What is asked of samples beside their number: how they are drawn, and what they must be like.

From the keys that `sample` and `infill` share to a denoiser that says it and a sampler that does
it. Every wish is a wrapper, so that all that can be combined is.

keys:
  sampler=NAME        auto (fits the model), ancestral, stepwise, first_hitting, analytic,
                      parallel, confidence, threshold, entropy_bounded, remasking,
                      predictor_corrector, cached_blocks, block_by_block, left_to_right, plaid;
                      its options as sampler.KEY=, see configs/sampler
  steps=              of samplers that have them (256)
  temperature= nucleus=  of the predicted tokens; 1 changes nothing
  average_strands=true  average the predictions of both strands at every step
  label= guidance=    draw this class, of a model that was trained with classes; guidance above 1
                      exaggerates it
  classifier=FILE.py:NAME  a function of one-hot sequences (n, l, columns; of DNA columns 7 to 10
                      are A, C, G, T and 3 is the mask) that gives log p(y | x) (n,), also of what
                      is still masked; classifier_strength= (1), first_order=true for one gradient
                      in the place of every change
  pattern=IUPAC       a letter for each base: ACGT are fixed, N is any
  require=[MOTIF,..]  IUPAC motifs that have to occur, anywhere or as MOTIF@POSITION (from 0)
  forbid=[MOTIF,..]   motifs that must not occur; both_strands=false for the given strand alone
  gc=[LOW,HIGH]       share of G and C
  reward=FILE.py:NAME a function of a list of sequences that gives a number each, more is better;
                      with best_of=N (draw N, keep the best) or particles=N (draw from
                      p(x) exp(reward / reward_temperature), the better the more)
  particles=N         also makes what is drawn under require=, forbid= and gc= follow the model;
                      the network sees N times batch_size sequences at once, of best_of= too
"""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from genodiff.data import DnaTokenizer, file_sha256
from genodiff.diffusion import (
    Ancestral,
    BestOf,
    BlockByBlock,
    BlockDenoiser,
    CausalModel,
    ClassifierFree,
    ClassifierFreeTransitions,
    ClassifierGuided,
    Conditional,
    Constrained,
    Denoiser,
    LeftToRight,
    Nucleus,
    Parallel,
    PlaidModel,
    PlaidSampler,
    Reshape,
    Reshaped,
    Sampler,
    SequentialMonteCarlo,
    Temperature,
    combined,
    conflict,
)
from genodiff.diffusion.process import Masking
from genodiff.errors import UserError
from genodiff.tasks.build import Node, build, resolve
from genodiff.tasks.constraints import Wishes
from genodiff.tasks.functions import load_function
from genodiff.tasks.model import Model, strand_averaged

DEFAULT_STEPS = 256

ALL = slice(None)


@dataclass(frozen=True)
class Design:
    """The keys that `sample` and `infill` share; `genodiff sample --help` explains them."""

    sampler: Node
    steps: int | None
    temperature: float
    nucleus: float
    average_strands: bool
    label: int | None
    guidance: float
    classifier: str | None
    classifier_strength: float
    first_order: bool
    pattern: str | None
    forbid: Sequence[str]
    require: Sequence[str]
    gc: Sequence[float] | None
    both_strands: bool
    reward: str | None
    reward_temperature: float
    best_of: int | None
    particles: int | None

    def built_sampler(
        self, model: Model, within: Callable[[Sampler], Sampler] | None = None
    ) -> Sampler:
        """The sampler of the model, which draws as is asked; one sequence by `within` it."""
        self.check()
        options = [key for key in self.sampler if key != "_target_"]
        if self.sampler["_target_"] is None and options:
            raise UserError(
                f"sampler.{options[0]}= is an option of a sampler, and none is named; add e.g. "
                "sampler=parallel."
            )
        if self.particles is not None:
            if within is not None:
                raise UserError(
                    f"particles={self.particles} are of whole sequences; leave window= out, or "
                    "use best_of=."
                )
            return self._particles(model)
        sampler = self._own(model) if self.sampler["_target_"] is None else self._named(model)
        if within is not None:
            sampler = within(sampler)
        if self.best_of is not None:
            if self.reward is None:
                raise UserError(
                    f"best_of={self.best_of} needs something to be best at; give "
                    "reward=FILE.py:NAME."
                )
            return BestOf(sampler, self.best_of, _reward(self.reward, model))
        if self.reward is not None:
            raise UserError(
                f"reward={self.reward} has no effect by itself; add best_of=8 or particles=16."
            )
        return sampler

    def denoiser(
        self,
        model: Model,
        x: Int[Tensor, " l"],
        span: slice = ALL,
        given: Bool[Tensor, " l"] | None = None,
    ) -> Any:
        """The model with every wish that changes what it says of the masks of x; `span` and
        `given` as in `Wishes.constraints`."""
        return self.constrained(self.steered(model), model, x, span, given)

    def steered(self, model: Model) -> Any:
        """The model with every wish but what sequences must be like, which is `constrained`'s."""
        if not isinstance(model.denoiser, Denoiser):
            self._refuse_steering(model)
            return model.denoiser
        denoiser: Denoiser = strand_averaged(model) if self.average_strands else model.denoiser
        masks = isinstance(denoiser.process, Masking)
        if not masks:  # guidance then mixes transitions, which are of what is reshaped already
            denoiser = self._reshaped(denoiser)
        denoiser = self._told_a_class(model, denoiser)
        if masks:
            denoiser = self._reshaped(denoiser)
        if self.classifier is not None:
            denoiser = ClassifierGuided(
                denoiser,
                load_function("classifier", self.classifier),
                float(self.classifier_strength),
                first_order=self.first_order,
            )
        return denoiser

    def constrained(
        self,
        steered: Any,
        model: Model,
        x: Int[Tensor, " l"],
        span: slice,
        given: Bool[Tensor, " l"] | None,
    ) -> Any:
        """What `steered` gives for the model, held to what sequences must be like: `Constrained`,
        or itself where that is nothing. Raises UserError if no completion of x is like that."""
        if not self.wishes:
            return steered
        if not isinstance(model.tokenizer, DnaTokenizer):
            raise UserError(
                "pattern=, forbid=, require= and gc= are for DNA, and this model reads the "
                f"tokens of {type(model.tokenizer).__name__}; leave them out."
            )
        size = model.network.vocab_size
        constraints = self.wishes.constraints(model.tokenizer, size, x, span, given)
        if not isinstance(steered, Denoiser):
            raise _needs_denoising(" and ".join(constraints), model)
        constrained = Constrained(steered, *combined(constraints), given)
        if clash := conflict(constraints, x, steered.process, given):
            begun = bool((x != model.tokenizer.mask_id).any())
            raise UserError(
                f"{' and '.join(clash)} cannot be satisfied{' together' if clash[1:] else ''}"
                f"{' with the bases that are given' if begun else ''}; drop or relax "
                f"{'one' if clash[1:] else 'it'}."
            )
        return constrained

    @property
    def wishes(self) -> Wishes:
        """What sequences must be like."""
        return Wishes(self.pattern, self.forbid, self.require, self.gc, self.both_strands)

    def functions_sha256(self) -> dict[str, str]:
        """Of the files of one's own functions that are asked for, as `KEY_sha256`."""
        functions = {"classifier": self.classifier, "reward": self.reward}
        return {
            f"{key}_sha256": file_sha256(Path(text.rpartition(":")[0]))
            for key, text in functions.items()
            if text is not None
        }

    def check(self) -> None:
        """Raises UserError for keys that are wrong, or do nothing, whatever the model."""
        for name in ("guidance", "classifier_strength", "reward_temperature"):
            if not math.isfinite(getattr(self, name)):
                raise UserError(f"{name}={getattr(self, name)} must be a number; use e.g. 1.")
        if not self.reward_temperature > 0:
            raise UserError(
                f"reward_temperature={self.reward_temperature}: rewards are divided by it; use "
                "more than 0, e.g. 1."
            )
        for name in ("best_of", "particles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name}={value} must be at least 1; use e.g. 16.")
        has_classifier, has_motifs = self.classifier is not None, bool(self.forbid or self.require)
        for word, is_said, partner, is_there in (
            (f"guidance={self.guidance}", self.guidance != 1, "label=", self.label is not None),
            ("classifier_strength=", self.classifier_strength != 1, "classifier=", has_classifier),
            ("first_order=true", self.first_order, "classifier=", has_classifier),
            (
                *("reward_temperature=", self.reward_temperature != 1),
                *("particles=", self.particles is not None),
            ),
            ("both_strands=false", not self.both_strands, "forbid= or require=", has_motifs),
            (
                *(f"particles={self.particles}", self.particles is not None),
                *("reward= or constraints", self.reward is not None or bool(self.wishes)),
            ),
        ):
            if is_said and not is_there:
                raise UserError(f"{word} does nothing without {partner}; give that, or drop it.")

    def _reshaped(self, denoiser: Denoiser) -> Denoiser:
        return Reshaped(denoiser, *self._reshapes) if self._reshapes else denoiser

    @property
    def _reshapes(self) -> list[Reshape]:
        temperature, nucleus = Temperature(float(self.temperature)), Nucleus(float(self.nucleus))
        return ([temperature] if self.temperature != 1 else []) + (
            [nucleus] if self.nucleus != 1 else []
        )

    def _own(self, model: Model) -> Sampler:
        """The sampler that a model is drawn from unless another is named: exact as steps grow."""
        steps = DEFAULT_STEPS if self.steps is None else self.steps
        if isinstance(model.denoiser, CausalModel):
            if self.steps is not None:
                raise UserError(
                    f"steps={self.steps}: a left-to-right model draws one token after the other; "
                    "leave steps= out."
                )
            return LeftToRight(self._reshape)
        if isinstance(model.denoiser, PlaidModel):
            return PlaidSampler(model.tokenizer.mask_id, steps, reshape=self._reshape)
        # Constraints need the times of reveals known, which guided transitions move.
        known = self.classifier is None and model.denoiser.reveals_at_random
        sampler = Parallel(steps) if self.wishes and not known else Ancestral(steps)
        return BlockByBlock(sampler) if isinstance(model.denoiser, BlockDenoiser) else sampler

    def _named(self, model: Model) -> Sampler:
        target = resolve(self.sampler, "sampler")
        kinds = {LeftToRight: CausalModel, PlaidSampler: PlaidModel, BlockByBlock: BlockDenoiser}
        kind = kinds.get(target, Denoiser)
        if not isinstance(model.denoiser, kind):
            raise UserError(
                f"{target.__name__} draws from a {kind.__name__}, and this model is a "
                f"{type(model.denoiser).__name__}; leave sampler= out for the one that fits."
            )
        if self.steps is not None and not _takes_steps(self.sampler):
            raise UserError(
                f"steps={self.steps}: {target.__name__} has no steps; leave steps= out."
            )
        sampler = build(
            self.sampler,
            where="sampler",
            steps=DEFAULT_STEPS if self.steps is None else self.steps,
            mask_id=model.tokenizer.mask_id,
            reshape=self._reshape,
        )
        if isinstance(model.denoiser, BlockDenoiser) and target is not BlockByBlock:
            return BlockByBlock(sampler)  # of whole sequences a block would see noised ones
        return sampler

    @property
    def _reshape(self) -> Reshape | None:
        """The reshapes as one, for models that no denoiser wraps."""
        reshapes = self._reshapes

        def reshape(log_p: Tensor) -> Tensor:
            for each in reshapes:
                log_p = each(log_p)
            return log_p

        return reshape if reshapes else None

    def _particles(self, model: Model) -> SequentialMonteCarlo:
        if self.sampler["_target_"] is not None or self.best_of is not None:
            raise UserError(
                f"particles={self.particles} is a sampler of its own; leave sampler= and best_of= "
                "out."
            )
        if isinstance(model.denoiser, BlockDenoiser):
            raise UserError(
                f"particles={self.particles}: a model of block diffusion is drawn block by block, "
                "and particles are of whole sequences; use best_of= with a reward."
            )
        assert self.particles is not None
        return SequentialMonteCarlo(
            None if self.reward is None else _reward(self.reward, model),
            self.particles,
            DEFAULT_STEPS if self.steps is None else self.steps,
            float(self.reward_temperature),
        )

    def _told_a_class(self, model: Model, denoiser: Denoiser) -> Denoiser:
        if self.label is None:
            return denoiser
        classes = getattr(model.network, "classes", None)
        if classes is None:
            raise UserError(
                f"label={self.label}, but this {type(model.network).__name__} was not trained "
                "with classes; leave it out."
            )
        if not 0 <= self.label < classes.no_class:
            raise UserError(
                f"label={self.label} is none of the {classes.no_class} classes; use 0 .. "
                f"{classes.no_class - 1}."
            )
        if self.guidance == 1:
            return Conditional(denoiser, self.label)
        masks = isinstance(denoiser.process, Masking)
        mixed = ClassifierFree if masks else ClassifierFreeTransitions
        return mixed(denoiser, self.label, float(self.guidance))

    def _refuse_steering(self, model: Model) -> None:
        """Of models that are no denoisers: what has no meaning for them."""
        wishes = {
            "average_strands=true": self.average_strands,
            f"label={self.label}": self.label is not None,
            f"classifier={self.classifier}": self.classifier is not None,
            f"particles={self.particles}": self.particles is not None,
        }
        for wish, is_wished in wishes.items():
            if is_wished:
                raise _needs_denoising(wish, model)


def _needs_denoising(wish: str, model: Model) -> UserError:
    return UserError(
        f"{wish}: only models that are sampled by denoising can do that, and this is a "
        f"{type(model.denoiser).__name__}; use best_of= with a reward, or a checkpoint of another "
        "objective."
    )


def described(sampler: Any) -> dict[str, Any]:
    """A sampler's name and settings, as plain JSON values."""
    settings = {name: getattr(sampler, name) for name in sampler.__dataclass_fields__}
    return {
        "name": type(sampler).__name__,
        **{
            name: described(value) if is_dataclass(value) else value
            for name, value in settings.items()
            if not callable(value) or is_dataclass(value)
        },
    }


def _takes_steps(node: Node) -> bool:
    """Whether the sampler, or one inside it, has steps."""
    if "steps" in inspect.signature(resolve(node, "sampler")).parameters:
        return True
    inner = node.get("sampler")
    return inner is not None and _takes_steps(inner)


def _reward(text: str, model: Model) -> Any:
    """A user's function of decoded sequences as a reward of tokens."""
    function = load_function("reward", text)

    def reward(tokens: Int[Tensor, "n l"]) -> Tensor:
        return function([model.tokenizer.decode(row) for row in tokens.cpu()]).double()

    return reward
