"""The Triton kernels against the float64 reference: on a GPU, or else in Triton's interpreter."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from genodiff.errors import UserError
from genodiff.ops import _native, _triton, causal_conv1d, selective_scan
from tests.ops.inputs import (
    Tensors,
    assert_all_close,
    changed,
    conv_inputs,
    in_layout,
    output_and_gradients,
    poisoned_memory,
    relative_error,
    scan_inputs,
)
from tests.ops.triton_device import DEVICE, quicken_the_interpreter

pytest.importorskip("triton", reason="triton is not installed")

# Rounding of float32 over up to 65 steps; bugs are many orders larger.
FLOAT32 = 2e-6
# bfloat16 keeps 8 bits: 2^-9 for rounding dout, 2^-8 for results, which the interpreter truncates.
BFLOAT16 = 2**-7


@pytest.fixture(autouse=True)
def quick_and_quiet_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It computes with numpy, which warns where a GPU gives infinity or NaN."""
    if DEVICE == "cpu":
        quicken_the_interpreter(monkeypatch)
    with np.errstate(all="ignore"):
        yield


@pytest.fixture
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut time into segments of two tiles, so that few steps pass through all kernels."""
    monkeypatch.setattr("genodiff.ops._triton_scan.SHORTEST_SEGMENT", 16)


def compare_with_float64(
    function: Callable[..., Tensor],
    inputs: Tensors,
    *,
    dtype: torch.dtype = torch.float32,
    tolerance: float = FLOAT32,
    **options: Any,
) -> Tensors:
    inputs = {k: x.to(dtype).double() for k, x in inputs.items()}
    expected = output_and_gradients(
        function, inputs, torch.float64, implementation="reference", **options
    )
    with poisoned_memory():
        actual = output_and_gradients(
            function, on_device(inputs), dtype, implementation="triton", **options
        )
    actual = {k: x.cpu() for k, x in actual.items()}
    assert_all_close(actual, expected, tolerance)
    return actual


def on_device(inputs: Tensors, dtype: torch.dtype = torch.float32) -> Tensors:
    return {k: x.to(DEVICE, dtype) for k, x in inputs.items()}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 17])
def test_scan_and_gradients_are_those_of_the_reference(
    length: int, reverse: bool, short_segments: None
) -> None:
    compare_with_float64(selective_scan, scan_inputs(1, length, 5, 16), reverse=reverse)


@pytest.mark.parametrize(("length", "reverse"), [(63, False), (64, True), (65, True)])
def test_longer_scans_are_those_of_the_reference(length: int, reverse: bool) -> None:
    compare_with_float64(selective_scan, scan_inputs(1, length, 5, 4), reverse=reverse)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1000, 4097])
def test_long_scans_are_those_of_the_reference(length: int, reverse: bool) -> None:
    compare_with_float64(
        selective_scan, scan_inputs(1, length, 5, 16), tolerance=1e-5, reverse=reverse
    )


@pytest.mark.parametrize("absent", [("z",), ("D", "delta_bias"), ("D", "z", "delta_bias")])
def test_skip_gate_and_bias_are_optional(absent: tuple[str, ...], short_segments: None) -> None:
    inputs = {k: x for k, x in scan_inputs(1, 18, 5, 4).items() if k not in absent}
    compare_with_float64(selective_scan, inputs)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("absent", [(), ("z",), ("D", "delta_bias"), ("D", "z", "delta_bias")])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 1000])
def test_options_and_layouts_hold_at_every_length(
    length: int, absent: tuple[str, ...], reverse: bool
) -> None:
    inputs = {k: x for k, x in scan_inputs(1, length, 3, 4).items() if k not in absent}
    scan = in_layout(selective_scan, "half of a wider tensor")
    compare_with_float64(scan, inputs, tolerance=1e-5, reverse=reverse)


def test_steps_are_taken_as_they_are_without_softplus(short_segments: None) -> None:
    inputs = scan_inputs(1, 18, 5, 4)
    inputs["delta"] = inputs["delta"].exp()
    compare_with_float64(selective_scan, inputs, delta_softplus=False)


def test_sequences_and_blocks_of_channels_are_told_apart(short_segments: None) -> None:
    compare_with_float64(selective_scan, scan_inputs(2, 17, 33, 4), reverse=True)


@pytest.mark.parametrize("n", [1, 3, 33])
def test_any_number_of_states_fits(n: int) -> None:
    compare_with_float64(selective_scan, scan_inputs(1, 9, 3, n))


def test_half_precision_is_computed_in_float32(short_segments: None) -> None:
    inputs = scan_inputs(1, 20, 5, 16)
    options = {"dtype": torch.bfloat16, "tolerance": BFLOAT16}
    results = compare_with_float64(selective_scan, inputs, **options)
    results |= compare_with_float64(causal_conv1d, conv_inputs(1, 20, 5, 4), **options)
    assert {x.dtype for x in results.values()} == {torch.bfloat16}


def test_dtypes_may_differ_as_under_autocast() -> None:
    """Gradients have the dtypes of their inputs, y that of u."""
    half = {"u", "B", "C", "z"}
    inputs = {
        k: x.bfloat16() if k in half else x.float() for k, x in scan_inputs(1, 9, 5, 4).items()
    }
    expected = selective_scan(**{k: x.double() for k, x in inputs.items()})
    leaves = {k: x.to(DEVICE).requires_grad_() for k, x in inputs.items()}
    y = selective_scan(**leaves, implementation="triton")
    y.sum().backward()
    assert y.dtype == torch.bfloat16
    assert relative_error(y.detach().cpu(), expected) < BFLOAT16
    for name, leaf in leaves.items():
        assert leaf.grad is not None and leaf.grad.dtype == inputs[name].dtype, name


def test_reverse_is_the_scan_between_two_flips(short_segments: None) -> None:
    inputs = on_device(scan_inputs(1, 21, 5, 4))
    flipped = {k: x.flip(1) if x.ndim == 3 else x for k, x in inputs.items()}
    y = selective_scan(**inputs, reverse=True, implementation="triton")
    assert torch.equal(y, selective_scan(**flipped, implementation="triton").flip(1))


@pytest.mark.parametrize("reverse", [False, True])
def test_memory_layout_does_not_matter(reverse: bool) -> None:
    """Halves of a projection, slices of time, channel-first memory, expanded tensors."""
    inputs = on_device(scan_inputs(2, 9, 6, 4))
    inputs["B"] = inputs["B"][:1, :1].expand(2, 9, 4).contiguous()
    u_and_z = torch.cat([inputs["u"], inputs["z"]], dim=2)
    views = changed(
        inputs,
        u=u_and_z[..., :6],
        z=u_and_z[..., 6:],
        delta=inputs["delta"].mT.contiguous().mT,
        A=inputs["A"].t().contiguous().t(),
        B=inputs["B"][:1, :1].expand(2, 9, 4),
        C=torch.cat([inputs["C"], inputs["C"]], dim=1)[:, :9],
        D=inputs["D"].repeat_interleave(2)[::2],
    )
    assert sum(not x.is_contiguous() for x in views.values()) == 7
    options: dict[str, Any] = {"reverse": reverse, "implementation": "triton"}
    assert torch.equal(selective_scan(**views, **options), selective_scan(**inputs, **options))


def test_gradients_may_come_in_any_layout() -> None:
    inputs = on_device(scan_inputs(2, 5, 5, 4))
    weights = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(2)).mT.to(DEVICE)
    gradients = []
    for weight in (weights, weights.contiguous()):
        u = inputs["u"].clone().requires_grad_()
        y = selective_scan(**changed(inputs, u=u), reverse=True, implementation="triton")
        (y * weight).sum().backward()
        gradients.append(u.grad)
    assert torch.equal(gradients[0], gradients[1])


def test_two_runs_give_the_same_bits(short_segments: None) -> None:
    def run() -> Tensors:
        scan = output_and_gradients(
            selective_scan,
            on_device(scan_inputs(1, 17, 5, 2)),
            torch.float32,
            implementation="triton",
        )
        conv = output_and_gradients(
            causal_conv1d,
            on_device(conv_inputs(1, 17, 5, 4)),
            torch.float32,
            implementation="triton",
        )
        return scan | {f"conv {k}": x for k, x in conv.items()}

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_recomputing_under_a_checkpoint_changes_nothing(short_segments: None) -> None:
    def run(scan: Callable[..., Any]) -> Tensor:
        leaves = {k: x.requires_grad_() for k, x in on_device(scan_inputs(1, 18, 3, 4)).items()}
        scan(*leaves.values()).square().sum().backward()
        return torch.cat([x.grad.flatten() for x in leaves.values() if x.grad is not None])

    def scan(*inputs: Tensor) -> Tensor:
        return selective_scan(*inputs, implementation="triton")

    assert torch.equal(run(scan), run(lambda *x: checkpoint(scan, *x, use_reentrant=False)))


def test_evaluation_keeps_no_states() -> None:
    inputs = {k: x.requires_grad_() for k, x in on_device(scan_inputs(1, 3, 2, 2)).items()}
    with torch.no_grad():
        assert selective_scan(**inputs, implementation="triton").grad_fn is None
    assert selective_scan(**inputs, implementation="triton").grad_fn is not None


def test_extreme_rates_underflow_and_overflow_like_exp() -> None:
    inputs = on_device(scan_inputs(1, 5, 4, 16))
    inputs["A"] = torch.tensor([-1e30, -60.0, 60.0, 1e30]).unsqueeze(1).repeat(1, 16).to(DEVICE)
    inputs["delta"] = torch.full((1, 5, 4), 2.0, device=DEVICE)
    y = selective_scan(**inputs, implementation="triton")
    expected = selective_scan(**inputs, implementation="reference")
    assert expected[..., :2].isfinite().all() and not expected[..., 2:].isfinite().all()
    assert torch.equal(y.isfinite(), expected.isfinite())
    torch.testing.assert_close(y[..., :2], expected[..., :2])


@pytest.mark.parametrize("delta", [-30.0, -15.0, -4.0, 0.0, 80.0])
def test_steps_of_any_size_are_accurate(delta: float) -> None:
    """softplus(-15) = 3e-7 is lost in 1 + exp(-15), which float32 must not compute."""
    inputs = scan_inputs(1, 5, 2, 2)
    inputs["delta"] = torch.full((1, 5, 2), delta, dtype=torch.float64)
    inputs["A"] = inputs["A"] * 0.01
    del inputs["D"], inputs["delta_bias"]
    compare_with_float64(selective_scan, inputs, tolerance=1e-5)


def test_a_sum_of_steps_that_overflows_does_not_reach_a_state_without_decay(
    short_segments: None,
) -> None:
    """exp(A sum dt) of a segment: 0 times infinity would be NaN."""
    ones = torch.ones(1, 40, 2, device=DEVICE)
    inputs: Tensors = {"u": 1e-38 * ones, "delta": 1e38 * ones, "B": ones, "C": ones}
    A = torch.tensor([[0.0, -1.0]] * 2, device=DEVICE)
    y = selective_scan(A=A, **inputs, delta_softplus=False, implementation="triton")
    # The state without decay adds up ones, the other one is 1 after each step.
    expected = torch.arange(2.0, 42, device=DEVICE).view(1, 40, 1).expand(1, 40, 2)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("name", ["u", "delta", "B", "C", "z", "delta_bias"])
def test_what_is_not_a_number_shows(name: str, short_segments: None) -> None:
    inputs = scan_inputs(1, 20, 3, 2)
    inputs[name].view(-1)[inputs[name].numel() // 2] = torch.nan
    expected = selective_scan(**inputs, implementation="reference")
    y = selective_scan(**on_device(inputs), implementation="triton")
    assert torch.equal(y.isnan().cpu(), expected.isnan())


@pytest.mark.parametrize(
    ("length", "width", "reverse"),
    [(1, 4, False), (2, 2, True), (15, 3, True), (33, 4, False), (33, 4, True), (18, 7, False)],
)
def test_convolution_and_gradients_are_those_of_the_reference(
    length: int, width: int, reverse: bool
) -> None:
    compare_with_float64(causal_conv1d, conv_inputs(2, length, 5, width), reverse=reverse)


@pytest.mark.slow
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [63, 64, 65, 1000, 4097])
def test_long_convolutions_are_those_of_the_reference(length: int, reverse: bool) -> None:
    compare_with_float64(causal_conv1d, conv_inputs(1, length, 5, 4), reverse=reverse)


def test_bias_and_activation_of_the_convolution_are_optional() -> None:
    inputs = conv_inputs(1, 17, 5, 4)
    compare_with_float64(causal_conv1d, inputs, activation=None)
    del inputs["bias"]
    compare_with_float64(causal_conv1d, inputs)


def test_the_convolution_takes_any_layout_and_number_of_channels() -> None:
    x = conv_inputs(2, 6, 70, 4)
    compare_with_float64(causal_conv1d, x)
    x = on_device(x)
    expected = causal_conv1d(**x, reverse=True, implementation="triton")
    half = torch.cat([x["x"], x["x"]], dim=2)[..., 70:]
    channel_first = x["x"].mT.contiguous().mT
    transposed = x["weight"].t().contiguous().t()
    for views in ({"x": half}, {"x": channel_first}, {"weight": transposed}):
        y = causal_conv1d(**changed(x, **views), reverse=True, implementation="triton")
        assert torch.equal(y, expected)


def test_a_scan_that_cannot_run_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = scan_inputs(1, 5, 4, 4)
    with pytest.raises(UserError, match=r"'triton' .* cannot run: it has no float64; convert"):
        selective_scan(**{k: x.to(DEVICE) for k, x in inputs.items()}, implementation="triton")
    inputs = {k: x.float() for k, x in inputs.items()}
    many = scan_inputs(1, 2, 1, 257)
    with pytest.raises(UserError, match="A has 257 states and it takes 256 at most; use 'chunked"):
        selective_scan(**many, implementation="triton")
    with pytest.raises(UserError, match="has 17 taps and it takes 16 at most; use 'chunked'"):
        causal_conv1d(**conv_inputs(1, 2, 1, 17), implementation="triton")
    monkeypatch.setattr(_triton, "_interpreting", lambda: False)
    with pytest.raises(
        UserError, match="needs CUDA and the tensors are on cpu; move them, or use"
    ):
        selective_scan(**inputs, implementation="triton")


def test_without_triton_the_way_out_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> None:
        raise ModuleNotFoundError("No module named 'triton'")

    monkeypatch.setattr(importlib, "import_module", import_module)
    _triton._missing.cache_clear()
    try:
        obstacle = _triton.scan_obstacle(torch.float32, torch.device("cuda"), 16, named=True)
        assert obstacle is not None and "(No module named 'triton'); `pip install tr" in obstacle
        assert not _triton._interpreting()
    finally:
        _triton._missing.cache_clear()


def test_auto_never_interprets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native, "library", lambda: None)
    inputs = {k: x.float() for k, x in scan_inputs(1, 5, 4, 4).items()}
    expected = selective_scan(**inputs, implementation="chunked")
    assert torch.equal(selective_scan(**inputs), expected)


def test_triton_is_imported_when_first_used() -> None:
    code = "import sys, genodiff.ops; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_kernels_compile_for_a_gpu_without_spilling_registers() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    lines = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.ops.compile_triton", "90"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(lines) == 16
    assert [line for line in lines if not line.endswith(" 0")] == []
