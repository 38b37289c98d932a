"""Random inputs of the kernels, and how two implementations are compared."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Tensors by the name of their argument; Any, so that they unpack beside options.
Tensors = dict[str, Any]


def scan_inputs(b: int, l: int, d: int, n: int, seed: int = 0) -> Tensors:
    """All inputs of `selective_scan` in float64, with decays from almost 1 to almost 0."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return {
        "u": normal(b, l, d),
        "delta": 0.5 * normal(b, l, d) - 2,
        "A": -8 * torch.rand(d, n, generator=g, dtype=torch.float64) - 0.1,
        "B": normal(b, l, n),
        "C": normal(b, l, n),
        "D": normal(d),
        "z": normal(b, l, d),
        "delta_bias": 0.1 * normal(d),
    }


def conv_inputs(b: int, l: int, d: int, width: int, seed: int = 0) -> Tensors:
    """All inputs of `causal_conv1d` in float64."""
    g = torch.Generator().manual_seed(seed)
    shapes = {"x": (b, l, d), "weight": (d, width), "bias": (d,)}
    return {
        name: torch.randn(*shape, generator=g, dtype=torch.float64)
        for name, shape in shapes.items()
    }


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "half of a wider tensor": lambda x: torch.cat([x, x], dim=-1)[..., : x.shape[-1]],
    "every second number": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT if x.ndim > 1 else x,
}
"""Views of a tensor's numbers that are not contiguous, where it has more than one row."""


def in_layout(function: Callable[..., Tensor], layout: str) -> Callable[..., Tensor]:
    """`function` of the same tensors in another layout of memory."""

    def of_views(**inputs: Any) -> Tensor:
        view = LAYOUTS[layout]
        return function(**{k: view(x) if isinstance(x, Tensor) else x for k, x in inputs.items()})

    return of_views


def changed(inputs: Tensors, **changes: Any) -> Tensors:
    return inputs | changes


def output_and_gradients(
    function: Callable[..., Tensor], inputs: Tensors, dtype: torch.dtype, **options
) -> Tensors:
    """The output y of `function`, and the gradient of sum(y w) for a fixed random w by input."""
    leaves = {k: x.detach().to(dtype).requires_grad_() for k, x in inputs.items()}
    y = function(**leaves, **options)
    g = torch.Generator().manual_seed(1)
    y.backward(torch.randn(y.shape, generator=g, dtype=torch.float64).to(y))
    results = {"y": y.detach()}
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        results[name] = leaf.grad
    return results


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """|actual - expected| / |expected| in the Euclidean norm; absolute where expected is 0."""
    norm = expected.norm().item()
    return (actual.double() - expected).norm().item() / (norm or 1.0)


def assert_all_close(actual: Tensors, expected: Tensors, tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].shape == expected[name].shape, name
        error = relative_error(actual[name], expected[name])
        assert error <= tolerance, f"{name}: relative error {error:.1e}"


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is filled with NaN, so that an output that is never written shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all() and torch.ones(1).new_empty(3).isnan().all()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
