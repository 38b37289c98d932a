"""The head and its softmax in one pass, held to the plain computation."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from genodiff.diffusion import linear_head
from genodiff.diffusion.linear_head import log_softmax_at

K, D = 13, 5


def problem(m: int, dtype: torch.dtype = torch.float64, k: int = K) -> list[Tensor]:
    """Tokens; states, weight and bias, which want gradients; what the rows count."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(k, (m,), generator=generator)
    shapes = ((m, D), (k, D), (k,))
    factors = [torch.randn(s, dtype=dtype, generator=generator).requires_grad_() for s in shapes]
    counts = 0.1 + torch.rand(m, dtype=torch.float64, generator=generator)
    return [tokens, *factors, counts]


def plain(tokens: Tensor, *factors: Tensor) -> Tensor:
    logits = F.linear(*factors)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return -F.cross_entropy(logits, tokens, reduction="none")


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one for every pass over the logits."""
    seen: list[int] = []
    swept = linear_head._Rows.swept

    def counted(*arguments: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        seen.append(1)
        return swept(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(linear_head._Rows, "swept", counted)
    return seen


@pytest.mark.parametrize("rows_at_once", [1, 3, 4, 12, 100])
@pytest.mark.parametrize("m", [1, 12])
@pytest.mark.parametrize("known", ["known", "up to a factor", "wrong", "unknown", "zero"])
def test_values_and_gradients_are_those_of_the_plain_computation(
    known: str, m: int, rows_at_once: int, sweeps: list[int]
) -> None:
    tokens, *factors, g = problem(m)
    guesses = {
        "known": g,
        "up to a factor": -3 * g,
        "wrong": torch.linspace(1, 2, m),
        "zero": 0 * g,
    }
    log_p = log_softmax_at(tokens, *factors, counts=guesses.get(known), rows_at_once=rows_at_once)
    expected = plain(tokens, *factors)
    torch.testing.assert_close(log_p, expected, rtol=1e-12, atol=1e-12)
    actual = torch.autograd.grad(log_p, factors, g)
    exact = torch.autograd.grad(expected, factors, g)
    torch.testing.assert_close(actual, exact, rtol=1e-12, atol=1e-12)
    right = known in ("known", "up to a factor") or (known == "wrong" and m == 1)
    assert len(sweeps) == (1 if right else 2)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_frozen_gets_no_gradient(wanted: tuple[int, ...], known: bool) -> None:
    tokens, *factors, g = problem(7)
    for i, x in enumerate(factors):
        x.requires_grad_(i in wanted)
    log_p = log_softmax_at(tokens, *factors, counts=g if known else None, rows_at_once=3)
    (log_p * g).sum().backward()
    chosen = [factors[i] for i in wanted]
    expected = torch.autograd.grad(plain(tokens, *factors), chosen, g)
    torch.testing.assert_close([x.grad for x in chosen], list(expected), rtol=1e-12, atol=1e-12)
    assert all(x.grad is None for i, x in enumerate(factors) if i not in wanted)


def test_the_states_alone_take_one_pass(sweeps: list[int]) -> None:
    tokens, states, *head, _ = problem(7)
    head = [x.detach() for x in head]
    log_softmax_at(tokens, states, *head, counts=None, rows_at_once=3).sum().backward()
    assert len(sweeps) == 1


def test_a_second_backward_pass_gives_the_same_gradients() -> None:
    tokens, *factors, g = problem(7)
    log_p = log_softmax_at(tokens, *factors, counts=g, rows_at_once=3)
    first = torch.autograd.grad(log_p, factors, g, retain_graph=True)
    kept = [x.clone() for x in first]
    other = torch.autograd.grad(log_p, factors, g.flip(0), retain_graph=True)
    again = torch.autograd.grad(log_p, factors, g)
    torch.testing.assert_close(list(first), kept, rtol=0, atol=0)  # not written over
    torch.testing.assert_close(again, first, rtol=1e-12, atol=1e-12)
    expected = torch.autograd.grad(plain(tokens, *factors), factors, g.flip(0))
    torch.testing.assert_close(other, expected, rtol=1e-12, atol=1e-12)


def test_gradients_cannot_be_differentiated() -> None:
    tokens, *factors, g = problem(7)
    log_p = log_softmax_at(tokens, *factors, counts=g, rows_at_once=3)
    with pytest.raises(RuntimeError, match="create_graph=True"):
        torch.autograd.grad(log_p, factors, g, create_graph=True)


def test_without_gradients_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, *factors, g = problem(7)
    monkeypatch.delattr(linear_head, "_LogSoftmaxAt")
    with torch.no_grad():
        log_p = log_softmax_at(tokens, *factors, counts=g, rows_at_once=3)
    assert not log_p.requires_grad
    torch.testing.assert_close(log_p, plain(tokens, *factors).detach(), rtol=1e-12, atol=1e-12)


def test_extreme_logits_overflow_nowhere() -> None:
    tokens, states, weight, bias, g = problem(9, torch.float32)
    bias = (bias.detach() + torch.linspace(-1e4, 1e4, K)).requires_grad_()
    factors = (states, weight, bias)
    log_p = log_softmax_at(tokens, *factors, counts=g, rows_at_once=4)
    assert log_p.min() < -1e3
    g = g.float()
    expected = plain(tokens, *factors)
    torch.testing.assert_close(log_p, expected)
    actual = torch.autograd.grad(log_p, factors, g)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, factors, g))


@pytest.mark.parametrize("under", ["float32", "autocast", "bfloat16"])
@pytest.mark.parametrize("known", [True, False])
def test_rounding_is_no_worse_than_that_of_the_plain_computation(under: str, known: bool) -> None:
    dtype = torch.bfloat16 if under == "bfloat16" else torch.float32
    tokens, *factors, g = problem(200, dtype, k=300)
    counts = g if known else None
    results = []
    with torch.autocast("cpu", torch.bfloat16, enabled=under == "autocast"):
        results.append(log_softmax_at(tokens, *factors, counts=counts, rows_at_once=32))
        results.append(plain(tokens, *factors))
    assert results[0].dtype == torch.float32
    exact_factors = [x.detach().double().requires_grad_() for x in factors]
    exact = plain(tokens, *exact_factors)
    exact_gradients = torch.autograd.grad(exact, exact_factors, g)
    errors = []
    for log_p in results:
        gradients = torch.autograd.grad(log_p, factors, g.float())
        assert [x.dtype for x in gradients] == [dtype] * 3
        pairs = zip((log_p, *gradients), (exact, *exact_gradients), strict=True)
        errors.append([float((a - b).detach().norm() / b.detach().norm()) for a, b in pairs])
    ours, theirs = errors
    assert max(theirs) < (1e-6 if under == "float32" else 2**-6)
    assert all(a <= 2 * b for a, b in zip(ours, theirs, strict=True)), errors


class Sizes(TorchDispatchMode):
    """The elements of the largest tensor that an operation has made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel())
        return made


@pytest.mark.parametrize("known", [True, False])
def test_no_more_logits_exist_at_once_than_those_of_a_chunk(known: bool) -> None:
    tokens, *factors, g = problem(50, k=100)
    with Sizes() as sizes:
        log_p = log_softmax_at(tokens, *factors, counts=g if known else None, rows_at_once=8)
        log_p.backward(g)
    assert sizes.largest == 100 * 8
