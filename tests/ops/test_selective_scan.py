"""`selective_scan`: each implementation against closed forms and the float64 reference."""

import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from genodiff.errors import UserError
from genodiff.ops import _choice, _chunked, _mamba_ssm, _native, _reference, selective_scan
from tests.ops.implementations import ALL, FAST, Cpu, needs_kernels
from tests.ops.inputs import (
    LAYOUTS,
    Tensors,
    assert_all_close,
    changed,
    in_layout,
    output_and_gradients,
    poisoned_memory,
    relative_error,
    scan_inputs,
)

# Rounding of float32 sums over up to (b l) terms that partly cancel; bugs are many orders larger.
FLOAT32 = 1e-5
# torch's elementwise functions round differently where memory is strided; ours do not.
ROUNDING = {"native": 0.0, "chunked": 1e-6}


def compare_with_float64(
    inputs: Tensors, function: Callable[..., Tensor] = selective_scan, **options: Any
) -> None:
    expected = output_and_gradients(
        selective_scan, inputs, torch.float64, implementation="reference", **options
    )
    with poisoned_memory():
        for implementation in FAST:
            actual = output_and_gradients(
                function, inputs, torch.float32, implementation=implementation, **options
            )
            assert_all_close(actual, expected, FLOAT32)


@pytest.mark.parametrize("implementation", ALL)
def test_an_impulse_decays_geometrically(implementation: Cpu) -> None:
    """One channel, one state, steps of 1: y_t = C B exp(-a t)."""
    l, a = 70, 0.25
    one = torch.ones(1, l, 1)
    u = torch.zeros(1, l, 1)
    u[0, 0] = 1
    y = selective_scan(
        *(u, one, torch.tensor([[-a]]), 3 * one, 5 * one),
        delta_softplus=False,
        implementation=implementation,
    )
    expected = 15 * torch.exp(-a * torch.arange(l))
    torch.testing.assert_close(y.flatten(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("implementation", ALL)
def test_without_decay_the_scan_is_a_cumulative_sum(implementation: Cpu) -> None:
    """A = 0: h_t = sum of dt u B, and C reads the sum of the states."""
    x = scan_inputs(2, 50, 6, 4)
    A = torch.zeros(6, 4)
    u, delta, B, C = (x[name].float() for name in ("u", "delta", "B", "C"))
    dtu = torch.log1p(delta.exp()) * u
    states = (dtu.unsqueeze(3) * B.unsqueeze(2)).cumsum(1)
    y = selective_scan(u, delta, A, B, C, implementation=implementation)
    torch.testing.assert_close(y, (states * C.unsqueeze(2)).sum(3), rtol=1e-4, atol=1e-5)


def test_the_last_state_of_the_reference_continues_the_sequence() -> None:
    """A scan of the first part ends in the state from which C reads the next output."""
    x = scan_inputs(2, 9, 3, 4)
    A, B, C = x["A"], x["B"], x["C"]
    head = {k: v[:, :8] if v.ndim == 3 else v for k, v in x.items()}
    state = _reference.scan_with_state(**head, delta_softplus=True, reverse=False).last_state
    dt = torch.nn.functional.softplus(x["delta"][:, 8] + x["delta_bias"]).unsqueeze(2)
    state = torch.exp(dt * A) * state + dt * x["u"][:, 8].unsqueeze(2) * B[:, 8].unsqueeze(1)
    whole = _reference.scan_with_state(**x, delta_softplus=True, reverse=False)
    torch.testing.assert_close(whole.last_state, state)
    y = ((state * C[:, 8].unsqueeze(1)).sum(2) + x["D"] * x["u"][:, 8]) * (
        torch.nn.functional.silu(x["z"][:, 8])
    )
    torch.testing.assert_close(whole.y[:, 8], y)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 1000, 4097])
@pytest.mark.parametrize("absent", [(), ("z",), ("D", "delta_bias"), ("D", "z", "delta_bias")])
def test_outputs_and_gradients_are_those_of_the_reference(
    length: int, reverse: bool, absent: tuple[str, ...]
) -> None:
    inputs = scan_inputs(2, length, 20, 16)
    compare_with_float64({k: x for k, x in inputs.items() if k not in absent}, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_steps_are_taken_as_they_are_without_softplus(reverse: bool) -> None:
    inputs = scan_inputs(2, 65, 20, 16)
    inputs["delta"] = inputs["delta"].exp()
    compare_with_float64(inputs, delta_softplus=False, reverse=reverse)


@pytest.mark.parametrize("d", [1, 5, 16, 20, 130, 236])
def test_any_number_of_channels_fits(d: int) -> None:
    compare_with_float64(scan_inputs(2, 65, d, 16))


@pytest.mark.parametrize("n", [1, 3, 4, 8, 32, 64, 300])
def test_any_number_of_states_fits(n: int) -> None:
    compare_with_float64(scan_inputs(2, 40, 20, n), reverse=True)


@needs_kernels
def test_gradients_of_the_kernel_are_accurate_to_float32() -> None:
    """Within 4e-7 of float64 at the benchmark's shape, outputs and all gradients.

    Of a smaller batch dA averages over fewer terms: 4.5e-7 at (2, 1024, 64), where the recurrence
    itself, run in float32, is off by 6.5e-7.
    """
    inputs = scan_inputs(8, 1024, 256, 16)
    expected = output_and_gradients(
        selective_scan, inputs, torch.float64, implementation="chunked"
    )
    actual = output_and_gradients(selective_scan, inputs, torch.float32, implementation="native")
    assert_all_close(actual, expected, 4e-7)


@pytest.mark.parametrize("implementation", FAST)
def test_reverse_is_the_scan_between_two_flips(implementation: Cpu) -> None:
    inputs = {k: x.float() for k, x in scan_inputs(2, 77, 20, 16).items()}
    flipped = {k: x.flip(1) if x.ndim == 3 else x for k, x in inputs.items()}
    y = selective_scan(**inputs, reverse=True, implementation=implementation)
    expected = selective_scan(**flipped, implementation=implementation).flip(1)
    assert relative_error(y, expected) <= ROUNDING[implementation]


@pytest.mark.parametrize("implementation", FAST)
def test_memory_layout_does_not_matter(implementation: Cpu) -> None:
    """Halves of a projection, slices of time, channel-first memory, expanded tensors."""
    inputs = {k: x.float() for k, x in scan_inputs(2, 50, 20, 16).items()}
    inputs["B"] = inputs["B"][:1, :1].expand(2, 50, 16).contiguous()
    expected = selective_scan(**inputs, implementation=implementation)
    u_and_z = torch.cat([inputs["u"], inputs["z"]], dim=2)
    longer = torch.cat([inputs["C"], inputs["C"]], dim=1)
    views = changed(
        inputs,
        u=u_and_z[..., :20],
        z=u_and_z[..., 20:],
        delta=inputs["delta"].transpose(1, 2).contiguous().transpose(1, 2),
        A=inputs["A"].t().contiguous().t(),
        B=inputs["B"][:1, :1].expand(2, 50, 16),
        C=longer[:, :50],
        D=inputs["D"].repeat_interleave(2)[::2],
    )
    assert sum(not x.is_contiguous() for x in views.values()) == 7
    y = selective_scan(**views, implementation=implementation)
    assert relative_error(y, expected) <= ROUNDING[implementation]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_and_gradients_in_other_layouts_are_those_of_the_reference(
    layout: str, reverse: bool
) -> None:
    function = in_layout(selective_scan, layout)
    compare_with_float64(scan_inputs(2, 65, 20, 16), function, reverse=reverse)


@pytest.mark.parametrize("implementation", FAST)
def test_gradients_may_come_in_any_layout(implementation: Cpu) -> None:
    inputs = {k: x.float() for k, x in scan_inputs(2, 33, 20, 16).items()}
    weights = torch.randn(2, 20, 33, generator=torch.Generator().manual_seed(2)).transpose(1, 2)
    gradients = []
    for weight in (weights, weights.contiguous()):
        u = inputs["u"].clone().requires_grad_()
        y = selective_scan(**changed(inputs, u=u), implementation=implementation)
        (y * weight).sum().backward()
        gradients.append(u.grad)
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("name", ["u", "delta", "A", "B", "C", "D", "z", "delta_bias"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("implementation", FAST)
def test_training_sees_what_is_not_finite(implementation: Cpu, name: str, bad: float) -> None:
    """Outputs stop being finite where the reference's do; gradients, somewhere."""
    inputs = scan_inputs(1, 40, 20, 16)
    inputs[name].view(-1)[inputs[name].numel() // 2] = bad
    expected = selective_scan(
        **{k: x.float() for k, x in inputs.items()}, implementation="reference"
    )
    results = output_and_gradients(
        selective_scan, inputs, torch.float32, implementation=implementation
    )
    assert torch.equal(results["y"].isfinite(), expected.isfinite())
    if not expected.isfinite().all():
        assert not all(x.isfinite().all() for x in results.values())


@pytest.mark.parametrize("implementation", FAST)
def test_extreme_rates_underflow_and_overflow_like_exp(implementation: Cpu) -> None:
    inputs = {k: x.float() for k, x in scan_inputs(1, 5, 4, 16).items()}
    inputs["A"] = torch.tensor([-1e30, -60.0, 60.0, 1e30]).unsqueeze(1).repeat(1, 16)
    inputs["delta"] = torch.full((1, 5, 4), 2.0)
    y = selective_scan(**inputs, implementation=implementation)
    expected = selective_scan(**inputs, implementation="reference")
    assert expected[..., :2].isfinite().all() and not expected[..., 2:].isfinite().all()
    assert torch.equal(y.isfinite(), expected.isfinite())
    torch.testing.assert_close(y[..., :2], expected[..., :2])


def test_the_chunked_gradient_passes_gradcheck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chunked, "_CHUNK_ELEMENTS", 1)  # chunks of 8 steps, so three of them
    inputs = [x.requires_grad_() for x in scan_inputs(1, 19, 3, 2).values()]
    for reverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda *x, reverse=reverse: selective_scan(
                *x, reverse=reverse, implementation="chunked"
            ),
            inputs,
        )


@needs_kernels
def test_a_row_does_not_depend_on_the_batch_around_it() -> None:
    inputs = {k: x.float() for k, x in scan_inputs(3, 70, 20, 16).items()}
    alone = {k: x[1:2] if x.ndim == 3 else x for k, x in inputs.items()}
    y = selective_scan(**inputs, implementation="native")
    assert torch.equal(y[1:2], selective_scan(**alone, implementation="native"))


@pytest.mark.parametrize("implementation", FAST)
def test_half_precision_is_computed_in_float32(implementation: Cpu) -> None:
    inputs = {k: x.bfloat16() for k, x in scan_inputs(2, 40, 20, 16).items()}
    y = selective_scan(**inputs, implementation=implementation)
    full = selective_scan(**{k: x.float() for k, x in inputs.items()}, implementation="chunked")
    assert y.dtype == torch.bfloat16
    # bfloat16 keeps 8 bits: rounding the result costs 2^-9 at most.
    assert relative_error(y, full.double()) < 2**-8


@needs_kernels
def test_evaluation_keeps_no_states() -> None:
    inputs = {k: x.float().requires_grad_() for k, x in scan_inputs(1, 40, 20, 16).items()}
    with torch.no_grad():
        assert selective_scan(**inputs, implementation="native").grad_fn is None
    assert selective_scan(**inputs, implementation="native").grad_fn is not None


@needs_kernels
@pytest.mark.parametrize(
    ("dtype", "built", "expected"),
    [
        (torch.float32, True, "native"),
        (torch.float32, False, "chunked"),
        (torch.float64, True, "chunked"),
        (torch.bfloat16, True, "native"),
    ],
)
def test_auto_takes_the_best_that_can_run_and_says_so_once(
    dtype: torch.dtype,
    built: bool,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if not built:
        monkeypatch.setattr(_native, "library", lambda: None)
    _choice._announce.cache_clear()
    inputs = {k: x.to(dtype) for k, x in scan_inputs(1, 5, 4, 4).items()}
    with caplog.at_level(logging.INFO, logger="genodiff.ops"):
        y = selective_scan(**inputs)
        selective_scan(**inputs)
    assert caplog.messages == [f"selective_scan: implementation={expected}"]
    assert torch.equal(y, selective_scan(**inputs, implementation=expected))  # pyright: ignore[reportArgumentType] (a parameter)


def test_the_scan_runs_without_a_compiled_library(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {k: x.float() for k, x in scan_inputs(1, 5, 4, 4).items()}
    expected = selective_scan(**inputs, implementation="chunked")
    monkeypatch.setattr(_native, "library", lambda: None)
    assert torch.equal(selective_scan(**inputs), expected)
    with pytest.raises(UserError, match="holds no library for this processor; reinstall genodiff"):
        selective_scan(**inputs, implementation="native")


def test_a_named_implementation_that_cannot_run_says_why() -> None:
    inputs = scan_inputs(1, 5, 4, 4)
    with pytest.raises(
        UserError, match=r"it computes in float32 and the tensors are torch.float64"
    ):
        selective_scan(**inputs, implementation="native")
    with pytest.raises(UserError, match=r"'mamba_ssm' .* cannot run: it needs CUDA .* on cpu"):
        selective_scan(**inputs, implementation="mamba_ssm")
    with pytest.raises(UserError, match="'fast' of selective_scan is unknown; use one of auto,"):
        selective_scan(**inputs, implementation="fast")  # pyright: ignore[reportArgumentType] (the point)


def test_mamba_ssm_needs_its_compiled_scan_not_just_its_package() -> None:
    device = torch.device("cuda")
    assert "takes 256 at most" in str(_mamba_ssm.scan_obstacle(torch.float32, device, 300))
    assert "no float64" in str(_mamba_ssm.scan_obstacle(torch.float64, device, 16))
    assert "pip install" in str(_mamba_ssm._missing("no_such_extension", "pip install it"))
    assert _mamba_ssm._missing("torch", "pip install it") is None


@pytest.mark.parametrize("reverse", [False, True])
def test_mamba_ssm_is_called_channel_first(reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in with the package's interface, made of the reference."""

    def selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus):
        u, delta, B, C, z = (x.transpose(1, 2) for x in (u, delta, B, C, z))
        y = _reference.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, False)
        return y.transpose(1, 2)

    package = SimpleNamespace(selective_scan_fn=selective_scan_fn)
    monkeypatch.setattr(_mamba_ssm, "_module", lambda name: package)
    inputs = {k: x.float() for k, x in scan_inputs(2, 9, 4, 3).items()}
    y = _mamba_ssm.selective_scan(**inputs, delta_softplus=True, reverse=reverse)
    expected = selective_scan(**inputs, reverse=reverse, implementation="reference")
    torch.testing.assert_close(y, expected)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("implementation", ["mamba_ssm", "chunked"])
@pytest.mark.parametrize("reverse", [False, True])
def test_on_cuda_outputs_and_gradients_are_those_of_the_reference(
    implementation: Literal["mamba_ssm", "chunked"], reverse: bool
) -> None:
    if implementation == "mamba_ssm" and _mamba_ssm._missing("selective_scan_cuda", ""):
        pytest.skip("mamba-ssm's compiled scan is not installed")
    inputs = scan_inputs(2, 1000, 20, 16)
    expected = output_and_gradients(
        selective_scan, inputs, torch.float64, implementation="reference", reverse=reverse
    )
    actual = output_and_gradients(
        selective_scan,
        {k: x.cuda() for k, x in inputs.items()},
        torch.float32,
        implementation=implementation,
        reverse=reverse,
    )
    assert_all_close({k: x.cpu() for k, x in actual.items()}, expected, 1e-4)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("delta", (2, 5, 3)),
        ("A", (3, 16)),
        ("B", (2, 5, 8)),
        ("C", (2, 16, 5)),
        ("D", (5,)),
        ("z", (1, 5, 4)),
        ("delta_bias", (4, 1)),
    ],
)
def test_shapes_that_do_not_fit_are_named(name: str, shape: tuple[int, ...]) -> None:
    inputs = changed(scan_inputs(2, 5, 4, 16), **{name: torch.zeros(shape, dtype=torch.float64)})
    with pytest.raises(ValueError, match=rf"{name} has shape .*follows from u .*channel-last"):
        selective_scan(**inputs)


def test_other_bad_inputs_are_named() -> None:
    inputs = scan_inputs(2, 5, 4, 16)
    with pytest.raises(ValueError, match=r"u has shape \(5, 4\) .* add a missing batch axis"):
        selective_scan(**changed(inputs, u=inputs["u"][0]))
    with pytest.raises(TypeError, match=r"B is torch.int64, not floating point; convert it"):
        selective_scan(**changed(inputs, B=inputs["B"].long()))
    with pytest.raises(ValueError, match="an empty axis; skip empty batches"):
        selective_scan(**{k: x[:0] if x.ndim == 3 else x for k, x in inputs.items()})
    with pytest.raises(ValueError, match="C is on meta, other inputs on cpu; move them"):
        selective_scan(**changed(inputs, C=inputs["C"].to("meta")))
