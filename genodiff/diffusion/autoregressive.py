"""Left-to-right models: p(x) = product over i of p(x_i | x_<i), each exact.

No process and no time: a model, and the objective that is its negative log-likelihood. Training
module, data and evaluation do not know the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Generator, Tensor, nn
from torch.func import functional_call

from genodiff.diffusion.chunked_head import WithHead, raised, readout_at
from genodiff.diffusion.incremental import Incremental, Memory
from genodiff.diffusion.objective import Objective, spread
from genodiff.diffusion.process import over_data, resolve_data_ids
from genodiff.errors import UserError


class CausalModel(nn.Module):
    """log p(x_i | x_<i) over the data tokens, by a causal network.

    The network is given [start, x_0, .., x_(l-2)] and answers for [x_0, .., x_(l-1)]: the mask,
    which no data holds, is the start, and every token is scored. Tokens that are not data are
    context and are not scored.

    Args:
        network: `network(tokens (b, l), None[, condition]) -> logits (b, l, k)` whose logits at a
            position depend on no later one; of one with `hidden` and `head` the head is computed
            only where it is needed.
        vocab_size: logits the network gives, padding of the vocabulary included.
        mask_id: the start.
        data_ids: tokens that are predicted; None for all but the mask.
        first_is_given: the published convention (Sahoo et al. 2024, arXiv:2406.07524, as
            implemented): inputs x_0 .. x_(l-2), targets x_1 .. x_(l-1), no start. The first token
            is not scored and has to be left out where tokens are counted, see `is_scored`.

    Raises UserError if a later token moves the network's logits.
    """

    def __init__(
        self,
        network: nn.Module,
        vocab_size: int,
        mask_id: int,
        data_ids: Sequence[int] | None = None,
        *,
        first_is_given: bool = False,
    ) -> None:
        super().__init__()
        self.data_ids = resolve_data_ids(vocab_size, mask_id, data_ids)
        if _looks_ahead(network, mask_id, self.data_ids[0]):
            raise UserError(
                f"this {type(network).__name__} sees later tokens, and a left-to-right model must "
                "not; use a causal network: Caduceus with bidirectional=false, or Transformer "
                "with causal=true."
            )
        self.network = network
        self.vocab_size = vocab_size
        self.mask_id = mask_id
        self.first_is_given = first_is_given

    def log_likelihood(
        self, x0: Int[Tensor, "b l"], condition: Tensor | None = None
    ) -> Float[Tensor, "b l"]:
        """log p(x_i | x_<i), normalised over the data tokens; 0 where x_i is not scored."""
        where = self.is_scored(x0)
        seen = self._started(x0)[:, :-1]
        answers = where[:, x0.shape[1] - seen.shape[1] :]
        readout = readout_at(self.network, _arguments(seen, condition), answers, self.vocab_size)
        alike = torch.ones(len(readout.states), device=x0.device)
        log_p = replace(readout, counts=alike).log_softmax_at(x0[where], self.data_ids)
        return spread(log_p, where)

    def begin(self) -> Memory | None:
        """The memory of having read nothing, for `log_next`; None if the network has none."""
        network: object = self.network
        if isinstance(network, Incremental) and isinstance(network, WithHead):
            return network.begin()
        return None

    def log_next(
        self,
        x: Int[Tensor, "b l"],
        condition: Tensor | None = None,
        *,
        memory: Memory | None = None,
    ) -> Float[Tensor, "b k"]:
        """log p of the token that follows x, which may be empty unless the first is given.

        With the `memory` of a beginning of x only the rest is read, and it is of x afterwards.
        """
        seen = self._started(x)
        if seen.shape[1] == 0:
            raise ValueError("first_is_given=True and no token is; begin with one token a row.")
        if memory is not None:
            network: Any = self.network
            rest = seen[:, memory.length :]
            hidden = network.extend(rest, memory, None, condition)
            return over_data(raised(network.head(hidden[:, -1]), self.vocab_size), self.data_ids)
        last = torch.zeros_like(seen, dtype=torch.bool)
        last[:, -1] = True
        arguments = _arguments(seen, condition)
        logits = readout_at(self.network, arguments, last, self.vocab_size).logits()
        return over_data(logits, self.data_ids)

    def is_scored(self, x0: Int[Tensor, "b l"]) -> Bool[Tensor, "b l"]:
        """Which tokens have a likelihood: the data tokens, but the first where it is given."""
        is_data = torch.isin(x0, torch.tensor(self.data_ids, device=x0.device))
        if self.first_is_given:
            is_data[:, 0] = False
        return is_data

    def _started(self, x: Int[Tensor, "b l"]) -> Int[Tensor, "b m"]:
        """What the network reads."""
        return x if self.first_is_given else F.pad(x, (1, 0), value=self.mask_id)


class Nothing(NamedTuple):
    """What is random in an exact likelihood."""


@dataclass(frozen=True)
class NextToken(Objective[Nothing]):
    """-log p(x_i | x_<i) of a `CausalModel` at every token that it scores."""

    kind = "exact"

    def draw(
        self, model: nn.Module, x0: Int[Tensor, "b l"], *, generator: Generator | None
    ) -> Nothing:
        return Nothing()

    def nats(
        self,
        model: nn.Module,
        x0: Int[Tensor, "b l"],
        drawn: Nothing,
        condition: Tensor | None = None,
    ) -> Float[Tensor, "b l"]:
        if not isinstance(model, CausalModel):
            raise UserError(
                f"NextToken with a {type(model).__name__}: it scores left-to-right models; use "
                "the denoiser genodiff.diffusion.CausalModel, or another objective."
            )
        return -model.log_likelihood(x0, condition)


def _arguments(tokens: Tensor, condition: Tensor | None) -> tuple[Tensor | None, ...]:
    """What the network is called with."""
    return (tokens, None) if condition is None else (tokens, None, condition)


@torch.no_grad()
def _looks_ahead(network: nn.Module, token: int, other: int) -> bool:
    """Whether the second of two tokens moves the logits of the first.

    Fresh weights are often zero where tokens meet: those are random numbers for the question.
    """
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(weight.shape, generator=generator).to(weight)
        for name, weight in network.named_parameters()
        if not bool(weight.any())
    }
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    tokens = torch.tensor([[token, token], [token, other]])
    tokens = tokens.to(next(network.parameters(), tokens).device)
    logits = functional_call(network, weights, (tokens, None))
    for module, training in modes:
        module.training = training
    return not torch.allclose(logits[0, 0], logits[1, 0], rtol=1e-4, atol=1e-6)
