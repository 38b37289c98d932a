"""Fixtures of the kernels' tests."""

from collections.abc import Iterator

import pytest

from tests.ops.inputs import threads


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """The tensors are small: threads would only wait for each other."""
    with threads(1):
        yield
