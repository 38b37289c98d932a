"""The kernels on a GPU at the sizes of real runs, against float64 and against mamba-ssm."""

from typing import Any

import pytest
import torch

from genodiff.ops import _mamba_ssm, causal_conv1d, selective_scan
from tests.ops.inputs import (
    Tensors,
    assert_all_close,
    changed,
    conv_inputs,
    output_and_gradients,
    scan_inputs,
)

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

# (batch, length, channels): one segment of time, some, and many.
SHAPES = [(64, 1024, 512), (4, 4096, 512), (1, 131_072, 256)]
# float32: rounding over long sums, of the exponentials above all. bfloat16: 8 bits, for dout and
# for results.
TOLERANCES = [(torch.float32, 1e-5), (torch.bfloat16, 2**-7)]


def on_gpu(inputs: Tensors, dtype: torch.dtype) -> Tensors:
    """Rounded to `dtype`, in float64, so that inputs of that dtype are the same numbers."""
    return {k: x.to("cuda", dtype).double() for k, x in inputs.items()}


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_scan_is_that_of_float64(
    shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float, reverse: bool
) -> None:
    inputs = on_gpu(scan_inputs(*shape, 16), dtype)
    expected = output_and_gradients(
        selective_scan, inputs, torch.float64, implementation="chunked", reverse=reverse
    )
    actual = output_and_gradients(
        selective_scan, inputs, dtype, implementation="triton", reverse=reverse
    )
    assert_all_close(actual, expected, tolerance)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize("width", [2, 4, 16])
def test_the_convolution_is_that_of_float64(
    width: int, dtype: torch.dtype, tolerance: float, reverse: bool
) -> None:
    inputs = on_gpu(conv_inputs(4, 4096, 512, width), dtype)
    expected = output_and_gradients(
        causal_conv1d, inputs, torch.float64, implementation="chunked", reverse=reverse
    )
    actual = output_and_gradients(
        causal_conv1d, inputs, dtype, implementation="triton", reverse=reverse
    )
    assert_all_close(actual, expected, tolerance)


@pytest.mark.parametrize("reverse", [False, True])
def test_mamba_ssm_gives_the_same(reverse: bool) -> None:
    if _mamba_ssm._missing("selective_scan_cuda", ""):
        pytest.skip("mamba-ssm's compiled scan is not installed")
    inputs = on_gpu(scan_inputs(4, 4096, 512, 16), torch.float32)
    results = [
        output_and_gradients(
            selective_scan, inputs, torch.float32, implementation=name, reverse=reverse
        )
        for name in ("triton", "mamba_ssm")
    ]
    assert_all_close(results[0], {k: x.double() for k, x in results[1].items()}, 1e-4)


@pytest.mark.parametrize("n", [4, 16, 64, 256])
def test_any_number_of_states_compiles(n: int) -> None:
    inputs = on_gpu(scan_inputs(2, 100, 40, n), torch.float32)
    expected = output_and_gradients(
        selective_scan, inputs, torch.float64, implementation="chunked"
    )
    actual = output_and_gradients(selective_scan, inputs, torch.float32, implementation="triton")
    assert_all_close(actual, expected, 1e-5)


def test_sizes_of_one_compile() -> None:
    """Triton takes integers that are 1 for constants."""
    for shape in ((1, 1, 1, 1), (1, 1, 40, 16), (1, 9, 1, 1)):
        inputs = on_gpu(scan_inputs(*shape), torch.float32)
        results = [
            output_and_gradients(selective_scan, inputs, torch.float32, implementation=name)
            for name in ("triton", "reference")
        ]
        assert_all_close(results[0], {k: x.double() for k, x in results[1].items()}, 1e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_offsets_may_pass_32_bits(reverse: bool) -> None:
    inputs = {k: x.to("cuda", torch.bfloat16) for k, x in scan_inputs(2, 64, 32, 16).items()}
    far = torch.empty(2**31 + 64 * 32 + 8, dtype=torch.bfloat16, device="cuda")
    far_u = far.as_strided((2, 64, 32), (2**31 + 8, 32, 1)).copy_(inputs["u"])
    options: dict[str, Any] = {"reverse": reverse, "implementation": "triton"}
    y = selective_scan(**changed(inputs, u=far_u), **options)
    assert torch.equal(y, selective_scan(**inputs, **options))


def test_auto_takes_triton_where_mamba_ssm_is_not_installed() -> None:
    if not _mamba_ssm._missing("selective_scan_cuda", ""):
        pytest.skip("mamba-ssm's compiled scan is installed")
    inputs = {k: x.to("cuda", torch.float32) for k, x in scan_inputs(1, 40, 8, 16).items()}
    y = selective_scan(**inputs)
    assert torch.equal(y, selective_scan(**inputs, implementation="triton"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_takes_little_more_than_its_inputs_and_gradients(dtype: torch.dtype) -> None:
    """At most twice the inputs beside them; and two runs give the same bits."""
    leaves = {
        k: x.to("cuda", dtype).requires_grad_() for k, x in scan_inputs(8, 4096, 512, 16).items()
    }
    size = sum(x.nbytes for x in leaves.values())
    runs = []
    for _ in range(2):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        y = selective_scan(**leaves, implementation="triton")
        gradients = torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y))
        peak = torch.cuda.max_memory_allocated() - before
        runs.append(gradients)
        # Output, its gradient and all gradients make 1.7 times the inputs.
        assert peak <= (1.7 + 2.3) * size
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
