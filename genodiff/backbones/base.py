"""`Backbone`: a network that maps tokens, and possibly a noise level, to logits."""

import abc

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genodiff.errors import UserError

Inputs = Int[Tensor, "b l"] | Float[Tensor, "b l e"]
"""Tokens; or, of a network with an `embedding`, vectors in the place of those it looks up."""


class Backbone(nn.Module, abc.ABC):
    """logits = head(hidden(tokens, sigma)).

    The head acts on each position alone, so a loss or a sampler may call it on the hidden states
    that it needs and on no others.

    Padding, the tokens of `unseen_id`, is seen by no other position. At the right end of a row it
    changes nothing elsewhere; nor at the left end, unless a network counts positions from there or
    cuts blocks there. Amid a row it is a gap of its length. Vectors in the place of tokens do not
    say what is padding: all of them are seen.
    """

    d_model: int
    """Last axis of the hidden states."""
    vocab_size: int
    """Last axis of the logits, after any padding of the vocabulary."""
    has_time_input: bool = False
    """Whether the network can be told a `sigma`."""
    max_length: int | None = None
    """The most tokens a sequence can have; None for any number."""
    unseen_id: int | None = None
    """The id of padding that is not seen; None if every token is."""

    @abc.abstractmethod
    def hidden(
        self,
        tokens: Inputs,
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l d"]:
        """The final, normalised hidden states.

        `sigma` is the noise level -log alpha(t) of each sequence or token. Raises ValueError if
        the network has no input for a `sigma` or `condition` that is given.
        """

    @abc.abstractmethod
    def head(self, hidden: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        """Logits of any selection of hidden states."""

    @property
    def d_strand(self) -> int:
        """Width of the hidden states of one strand."""
        return self.d_model

    def strands(
        self,
        tokens: Int[Tensor, "b l"],
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> tuple[Float[Tensor, "b l d"], ...]:
        """The hidden states of each strand that the network keeps, in that strand's direction."""
        return (self.hidden(tokens, sigma, condition),)

    def forward(
        self,
        tokens: Int[Tensor, "b l"],
        sigma: Float[Tensor, "b #l"] | None = None,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l k"]:
        """Logits at every position."""
        return self.head(self.hidden(tokens, sigma, condition))


def embed(embedding: nn.Embedding, tokens: Inputs) -> Float[Tensor, "b l e"]:
    """The vectors of tokens; vectors as they are."""
    return tokens if tokens.is_floating_point() else embedding(tokens)


def padding_among(
    tokens: Inputs, unseen_id: int | None, *, causal: bool = False
) -> Bool[Tensor, "b l"] | None:
    """Where padding is that another position could see; None if there is none.

    A `causal` network sees only the padding that has tokens behind it.
    """
    if unseen_id is None or tokens.is_floating_point():
        return None
    padding = tokens == unseen_id
    seen = padding[:, :-1] & ~padding[:, 1:] if causal else padding
    # Compiled code cannot depend on what is in a tensor: it hides also what is not there.
    return padding if torch.compiler.is_compiling() or bool(seen.any()) else None


def require_positive(**sizes: int) -> None:
    """Raise UserError for a size below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"{name}={size} must be at least 1; give a positive number.")


def refuse_sigma(network: nn.Module, sigma: Tensor | None) -> None:
    """Raise ValueError if a network without a time input is given one."""
    if sigma is not None:
        raise ValueError(
            f"sigma is given, but this {type(network).__name__} has no time input; pass "
            "sigma=None (time_conditioning=false), or use DiMamba or a Transformer with cond_dim."
        )


def refuse_condition(network: nn.Module, condition: Tensor | None) -> None:
    """Raise ValueError if a network without a class input is given one."""
    if condition is not None:
        raise ValueError(
            f"condition is given, but this {type(network).__name__} has no class input; "
            "pass condition=None."
        )
