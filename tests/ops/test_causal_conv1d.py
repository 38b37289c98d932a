"""`causal_conv1d`: each implementation against closed forms and the float64 reference."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from genodiff.errors import UserError
from genodiff.ops import _mamba_ssm, _native, causal_conv1d
from tests.ops.implementations import ALL, FAST, Cpu, needs_kernels
from tests.ops.inputs import (
    LAYOUTS,
    Tensors,
    assert_all_close,
    changed,
    conv_inputs,
    in_layout,
    output_and_gradients,
    poisoned_memory,
)

# Rounding of float32 sums over up to (b l) terms that partly cancel; bugs are many orders larger.
FLOAT32 = 1e-5


def compare_with_float64(
    inputs: Tensors, function: Callable[..., Tensor] = causal_conv1d, **options: Any
) -> None:
    expected = output_and_gradients(
        causal_conv1d, inputs, torch.float64, implementation="reference", **options
    )
    with poisoned_memory():
        for implementation in FAST:
            actual = output_and_gradients(
                function, inputs, torch.float32, implementation=implementation, **options
            )
            assert_all_close(actual, expected, FLOAT32)


@pytest.mark.parametrize("implementation", ALL)
def test_an_impulse_gives_the_taps_last_one_first(implementation: Cpu) -> None:
    weight = torch.tensor([[1.0, 2.0, 3.0]])
    x = torch.zeros(1, 6, 1)
    x[0, 2] = 1
    y = causal_conv1d(x, weight, activation=None, implementation=implementation)
    assert y.flatten().tolist() == [0, 0, 3, 2, 1, 0]
    y = causal_conv1d(x, weight, activation=None, reverse=True, implementation=implementation)
    assert y.flatten().tolist() == [1, 2, 3, 0, 0, 0]


def test_it_is_torchs_convolution_with_left_padding() -> None:
    x = conv_inputs(2, 30, 6, 4)
    conv = F.conv1d(x["x"].mT, x["weight"].unsqueeze(1), x["bias"], padding=3, groups=6)
    expected = F.silu(conv[..., :30]).mT
    torch.testing.assert_close(causal_conv1d(**x, implementation="reference"), expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 2, 3, 63, 64, 65, 1000, 4097])
@pytest.mark.parametrize("activation", ["silu", None])
def test_outputs_and_gradients_are_those_of_the_reference(
    length: int, activation: Literal["silu"] | None, reverse: bool
) -> None:
    inputs = conv_inputs(2, length, 20, 4)
    compare_with_float64(inputs, activation=activation, reverse=reverse)
    del inputs["bias"]
    compare_with_float64(inputs, activation=activation, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_and_gradients_in_other_layouts_are_those_of_the_reference(
    layout: str, reverse: bool
) -> None:
    function = in_layout(causal_conv1d, layout)
    compare_with_float64(conv_inputs(2, 65, 20, 4), function, reverse=reverse)


@needs_kernels
def test_gradients_of_the_kernel_are_accurate_to_float32() -> None:
    """Within 4e-7 of float64, outputs and all gradients."""
    inputs = conv_inputs(1, 4096, 64, 4)
    expected = output_and_gradients(causal_conv1d, inputs, torch.float64, implementation="chunked")
    actual = output_and_gradients(causal_conv1d, inputs, torch.float32, implementation="native")
    assert_all_close(actual, expected, 4e-7)


@pytest.mark.parametrize("d", [1, 5, 16, 130, 236])
def test_any_number_of_channels_fits(d: int) -> None:
    compare_with_float64(conv_inputs(2, 65, d, 4), reverse=True)


@pytest.mark.parametrize("width", [1, 2, 3, 7, 80])
def test_any_number_of_taps_fits(width: int) -> None:
    """Also more taps than steps, or than the steps of a chunk."""
    compare_with_float64(conv_inputs(2, 66, 20, width))
    compare_with_float64(conv_inputs(2, 2, 20, width), reverse=True)


@pytest.mark.parametrize("implementation", FAST)
def test_reverse_is_the_convolution_between_two_flips(implementation: Cpu) -> None:
    x = {k: v.float() for k, v in conv_inputs(2, 77, 20, 4).items()}
    y = causal_conv1d(**x, reverse=True, implementation=implementation)
    flipped = causal_conv1d(**changed(x, x=x["x"].flip(1)), implementation=implementation)
    torch.testing.assert_close(y, flipped.flip(1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("implementation", FAST)
def test_memory_layout_does_not_matter(implementation: Cpu) -> None:
    x = {k: v.float() for k, v in conv_inputs(2, 50, 20, 4).items()}
    expected = causal_conv1d(**x, implementation=implementation)
    half = torch.cat([x["x"], x["x"]], dim=2)[..., 20:]
    channel_first = x["x"].mT.contiguous().mT
    transposed = x["weight"].t().contiguous().t()
    for views in ({"x": half}, {"x": channel_first}, {"weight": transposed}):
        y = causal_conv1d(**changed(x, **views), implementation=implementation)
        torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["x", "weight", "bias"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("implementation", FAST)
def test_training_sees_what_is_not_finite(implementation: Cpu, name: str, bad: float) -> None:
    inputs = conv_inputs(1, 40, 20, 4)
    inputs[name].view(-1)[inputs[name].numel() // 2] = bad
    float32 = {k: x.float() for k, x in inputs.items()}
    expected = causal_conv1d(**float32, implementation="reference")
    results = output_and_gradients(
        causal_conv1d, inputs, torch.float32, implementation=implementation
    )
    assert torch.equal(results["y"].isnan(), expected.isnan())
    assert not all(x.isfinite().all() for x in results.values())


def test_the_gradient_of_the_fallback_passes_gradcheck() -> None:
    inputs = [x.requires_grad_() for x in conv_inputs(2, 5, 3, 4).values()]
    for reverse in (False, True):
        assert torch.autograd.gradcheck(
            lambda *x, reverse=reverse: causal_conv1d(
                *x, reverse=reverse, implementation="chunked"
            ),
            inputs,
        )


@pytest.mark.parametrize("implementation", FAST)
def test_half_precision_is_computed_in_float32(implementation: Cpu) -> None:
    x = {k: v.bfloat16() for k, v in conv_inputs(2, 40, 20, 4).items()}
    y = causal_conv1d(**x, implementation=implementation)
    expected = causal_conv1d(**{k: v.float() for k, v in x.items()}, implementation="reference")
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected.bfloat16())


def test_the_convolution_runs_without_a_compiled_library(monkeypatch: pytest.MonkeyPatch) -> None:
    x = {k: v.float() for k, v in conv_inputs(2, 9, 4, 4).items()}
    expected = causal_conv1d(**x, implementation="chunked")
    monkeypatch.setattr(_native, "library", lambda: None)
    assert torch.equal(causal_conv1d(**x), expected)
    with pytest.raises(UserError, match="holds no library for this processor; reinstall genodiff"):
        causal_conv1d(**x, implementation="native")


@pytest.mark.parametrize("reverse", [False, True])
def test_causal_conv1d_is_called_channel_first(
    reverse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in with the package's interface, made of torch's convolution."""

    def causal_conv1d_fn(x, weight, bias=None, *, activation=None):
        padding = weight.shape[1] - 1
        s = F.conv1d(x, weight.unsqueeze(1), bias, padding=padding, groups=x.shape[1])
        s = s[..., : x.shape[2]]
        return F.silu(s) if activation == "silu" else s

    package = SimpleNamespace(causal_conv1d_fn=causal_conv1d_fn)
    monkeypatch.setattr(_mamba_ssm, "_module", lambda name: package)
    x, weight, bias = (v.float() for v in conv_inputs(2, 9, 4, 4).values())
    y = _mamba_ssm.causal_conv1d(x, weight, bias, True, reverse)
    expected = causal_conv1d(x, weight, bias, reverse=reverse, implementation="reference")
    torch.testing.assert_close(y, expected)


def test_mamba_ssms_convolution_says_what_it_cannot_do() -> None:
    device = torch.device("cuda")
    assert "takes 2, 3 or 4" in str(_mamba_ssm.conv_obstacle(torch.float32, device, 5))
    assert "no float64" in str(_mamba_ssm.conv_obstacle(torch.float64, device, 4))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("implementation", ["mamba_ssm", "chunked"])
@pytest.mark.parametrize("reverse", [False, True])
def test_on_cuda_outputs_and_gradients_are_those_of_the_reference(
    implementation: Literal["mamba_ssm", "chunked"], reverse: bool
) -> None:
    if implementation == "mamba_ssm" and _mamba_ssm._missing("causal_conv1d_cuda", ""):
        pytest.skip("causal-conv1d's compiled kernel is not installed")
    inputs = conv_inputs(2, 1000, 20, 4)
    expected = output_and_gradients(
        causal_conv1d, inputs, torch.float64, implementation="reference", reverse=reverse
    )
    actual = output_and_gradients(
        causal_conv1d,
        {k: x.cuda() for k, x in inputs.items()},
        torch.float32,
        implementation=implementation,
        reverse=reverse,
    )
    assert_all_close({k: x.cpu() for k, x in actual.items()}, expected, 1e-4)


def test_bad_inputs_are_named() -> None:
    x = conv_inputs(2, 9, 4, 3)
    with pytest.raises(UserError, match="activation='relu' is unknown; use 'silu' or None"):
        causal_conv1d(**x, activation="relu")  # pyright: ignore[reportArgumentType] (the point)
    with pytest.raises(ValueError, match=r"squeeze the middle axis of an nn.Conv1d's weight"):
        causal_conv1d(x["x"], x["weight"].unsqueeze(1))
    with pytest.raises(
        ValueError, match=r"weight has shape \(5, 3\), but \(4, 3\) follows from x"
    ):
        causal_conv1d(x["x"], torch.zeros(5, 3))
    with pytest.raises(UserError, match="'fast' of causal_conv1d is unknown; use one of auto,"):
        causal_conv1d(**x, implementation="fast")  # pyright: ignore[reportArgumentType] (the point)
