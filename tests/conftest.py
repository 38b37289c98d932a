"""Options and fixtures of the whole suite.

Nothing of genodiff is imported at the top: jaxtyping's import hook has to come first.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

# Where there is no GPU, the Triton kernels are tested in Triton's interpreter. Triton reads this
# when it is imported, which Lightning does among others.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

if TYPE_CHECKING:
    from tests.toy import World


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        default=str(Path(__file__).parent / "parity" / "data"),
        help="folder of golden vectors with a manifest.json (default: tests/parity/data)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # Not in pyproject.toml, whose filters pytest imports before it reads this file.
    possible = "lightning.pytorch.utilities.warnings.PossibleUserWarning"
    config.addinivalue_line("filterwarnings", f"ignore::{possible}")


@pytest.fixture
def golden_folder(request: pytest.FixtureRequest) -> Path:
    return Path(str(request.config.getoption("golden")))


@pytest.fixture(scope="session")
def world() -> "World":
    """The enumerable world of `tests/toy.py`."""
    from tests.toy import World

    return World()
