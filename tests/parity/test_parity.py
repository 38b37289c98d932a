"""genodiff against the published implementations, case by case.

`pytest tests/parity` runs the vectors of `tests/parity/data`, `pytest tests/parity --golden DIR`
those of any other folder with a manifest of the same format. See `data/README.md` for where the
numbers come from.
"""

import importlib
from pathlib import Path

import pytest

from tests.parity import kinds
from tests.parity.cases import LATER_KINDS, Case, read_cases, reason_for_later

KINDS = {path.stem for path in Path(str(kinds.__file__)).parent.glob("[!_]*.py")}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        cases = read_cases(Path(str(metafunc.config.getoption("golden"))))
        metafunc.parametrize("case", cases, ids=[case.file for case in cases])


def test_the_folder_holds_cases(golden_folder: Path) -> None:
    assert read_cases(golden_folder), f"{golden_folder / 'manifest.json'} lists no case"


def test_no_kind_is_both_here_and_later() -> None:
    assert not KINDS & LATER_KINDS.keys()


def test_case(case: Case) -> None:
    assert not case.digest_errors(), "not the files that the manifest describes"
    reason = reason_for_later(case)
    if reason is not None:
        pytest.skip(reason)
    assert case.kind in KINDS, (
        f"no check for kind {case.kind!r}: add tests/parity/kinds/{case.kind}.py"
    )
    importlib.import_module(f"tests.parity.kinds.{case.kind}").check(case)
