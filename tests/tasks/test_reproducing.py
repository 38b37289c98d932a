"""Every command of benchmarks/REPRODUCING.md composes, so that the page cannot rot."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from genodiff.cli import TASKS
from genodiff.config import config_dir
from genodiff.tasks.zero_shot import CORPORA, PUBLISHED
from tests.tasks.test_text_recipes import RECIPES, composed

PAGE = (Path(__file__).parents[2] / "benchmarks/REPRODUCING.md").read_text(encoding="utf-8")
COMMANDS = sorted(
    {
        line
        for line in re.findall(r"^genodiff .*$|`(?:genodiff [a-z_]+ [^`]*)`", PAGE, re.MULTILINE)
        if "=" in line
    }
)


def words(command: str) -> list[str]:
    return shlex.split(command.strip("`"))[1:]


def test_the_commands_of_the_page_are_found() -> None:
    assert len(COMMANDS) > 50
    assert {words(command)[0] for command in COMMANDS} <= {*TASKS}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_composes(command: str) -> None:
    task, *overrides = words(command)
    config = composed(*overrides, task=task)
    for override in overrides:
        key, _, value = override.partition("=")
        if (config_dir() / key).is_dir():
            continue  # a group, whose file was found
        at: object = config
        for part in key.split("."):
            assert isinstance(at, dict) and part in at, override
            at = at[part]
        assert at == yaml.safe_load(value), override


def test_every_recipe_is_on_the_page() -> None:
    asked = {word for command in COMMANDS for word in words(command)}
    missing = [name for name in RECIPES if f"experiment={name}" not in asked]
    assert missing == []
    assert all(f"`{name}`" in PAGE for name in RECIPES if "ablation" not in name)


def test_its_zero_shot_rows_are_those_of_the_task() -> None:
    for model, row in list(PUBLISHED.items())[:3]:
        cells = " | ".join(f"{figure:.2f}" for figure in row)
        assert f"| {model.split()[0]} | {cells} |" in PAGE
    assert len(CORPORA) == 7
