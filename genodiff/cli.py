"""The `genodiff` command: finds the task, shows its help, or runs its module.

Only the standard library is imported here, so that `genodiff --help` answers at once.
"""

import ast
import difflib
import runpy
import sys
from pathlib import Path
from typing import NoReturn

from genodiff import __version__

TASKS = (
    *("demo", "fetch", "train", "evaluate", "zero_shot", "sample", "infill", "judge"),
    *("score", "embed", "compare", "finetune", "crossvalidate", "predict", "convert"),
)
SHARED_KEYS = ("design", "classifying")
"""Modules whose keys are those of several tasks."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 2 the user's mistake, 130 interrupted, 1 anything else."""
    arguments = sys.argv[1:]
    if not arguments:
        print(usage(), file=sys.stderr)
        sys.exit(2)
    task = arguments[0]
    if task in ("-h", "--help", "help"):
        print(usage())
    elif task == "--version":
        print(f"genodiff {__version__}")
    elif task not in TASKS:
        _fail_unknown(task)
    elif any(word in ("-h", "--help") for word in arguments[1:]):
        print(task_help(task))
    else:
        # The task's word leaves sys.argv, and run_module makes the task's module __main__: a
        # launcher that starts more processes (Lightning's DDP) then repeats
        # `python -m genodiff.tasks.<task> key=value ...`, which is the same command.
        del sys.argv[1]
        runpy.run_module(f"genodiff.tasks.{task}", run_name="__main__", alter_sys=True)


def usage() -> str:
    """The overview that `genodiff --help` prints."""
    rows = "\n".join(f"  {task:<13} {task_help(task).splitlines()[0]}" for task in TASKS)
    return f"""genodiff {__version__}: masked diffusion language models for DNA

usage: genodiff <task> [key=value ...]

{rows}

`genodiff <task> --help` explains the task's keys. Everywhere: seed=, device=auto|cpu|cuda, out=,
overwrite=true. Relative paths are relative to where you are; BED is 0-based, half-open.
First steps: genodiff demo out=demo"""


def task_help(task: str) -> str:
    """The docstring of a task's module, read without importing it (torch takes seconds to
    import). `{design}` stands for the keys of the module of that name, and so on."""
    text = _docstring(task)
    for module in SHARED_KEYS:
        if f"{{{module}}}" in text:
            text = text.replace(f"{{{module}}}", _docstring(module).partition("keys:\n")[2])
    return text


def _docstring(module: str) -> str:
    source = Path(__file__).parent / "tasks" / f"{module}.py"
    return ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""


def _fail_unknown(task: str) -> NoReturn:
    near = difflib.get_close_matches(task, TASKS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the tasks are {', '.join(TASKS)}."
    print(f"genodiff: no task {task!r}; {hint} See genodiff --help.", file=sys.stderr)
    sys.exit(2)
