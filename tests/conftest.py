"""Options and fixtures of the whole suite.

Nothing of genodiff is imported at the top: jaxtyping's import hook has to come first.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.toy import World


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        default=str(Path(__file__).parent / "parity" / "data"),
        help="folder of golden vectors with a manifest.json (default: tests/parity/data)",
    )


@pytest.fixture
def golden_folder(request: pytest.FixtureRequest) -> Path:
    return Path(str(request.config.getoption("golden")))


@pytest.fixture(scope="session")
def world() -> "World":
    """The enumerable world of `tests/toy.py`."""
    from tests.toy import World

    return World()
