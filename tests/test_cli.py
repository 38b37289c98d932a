"""The `genodiff` command as a person meets it: help, version, unknown words. Run in a process of
its own."""

import subprocess
import sys

import pytest

from genodiff.cli import TASKS, task_help


def genodiff(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "genodiff", *words], capture_output=True, text=True, timeout=120
    )


def test_help_lists_every_task_and_goes_to_standard_output() -> None:
    shown = genodiff("--help")
    assert shown.returncode == 0 and shown.stderr == ""
    assert all(task in shown.stdout for task in TASKS)


def test_version_is_the_package_version() -> None:
    from genodiff import __version__

    assert genodiff("--version").stdout == f"genodiff {__version__}\n"


@pytest.mark.parametrize("task", TASKS)
def test_help_of_a_task_explains_its_keys_with_an_example(task: str) -> None:
    text = task_help(task)
    assert "usage: genodiff " + task in text and "example:" in text and "keys:" in text
    assert "seed=" in text and "device=" in text and "out=" in text
    assert max(map(len, text.splitlines())) <= 110


def test_nothing_given_shows_the_usage_and_fails() -> None:
    shown = genodiff()
    assert shown.returncode == 2 and "usage:" in shown.stderr


def test_a_misspelt_task_is_named_with_the_nearest_one() -> None:
    shown = genodiff("trian")
    assert shown.returncode == 2 and shown.stdout == ""
    assert shown.stderr == (
        "genodiff: no task 'trian'; did you mean 'train'? See genodiff --help.\n"
    )
