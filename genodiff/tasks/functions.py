"""Functions of a user's own, named on the command line as FILE.py:NAME.

Running that file is what is asked for; nothing of the kind is ever read from a config or a
checkpoint.
"""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from genodiff.errors import UserError


def load_function(key: str, text: str) -> Callable[..., Tensor]:
    """What NAME is in FILE.py, for `key`=FILE.py:NAME. What it gives, numbers of any kind, is made
    a tensor; where it fails a UserError says so."""
    file, _, name = text.rpartition(":")
    path = Path(file)
    if not file or not path.is_file():
        raise UserError(
            f"{key}={text} is not FILE.py:NAME of a file that exists; give e.g. "
            f"{key}=rewards.py:tata_box."
        )
    with _failing(f"{key}={text}: {path}", "run it alone first"):
        found = getattr(_module(path), name, None)
    if not callable(found):
        raise UserError(
            f"{key}={text}: {path} has no function {name!r}; name one that it defines."
        )

    def function(*arguments: Any) -> Tensor:
        with _failing(f"{key}={text}", "try it alone on a few sequences"):
            return torch.as_tensor(found(*arguments))

    return function


def _module(path: Path) -> ModuleType:
    """The file, run as a module that can import its neighbours."""
    name = f"genodiff_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; give one that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there
    sys.path.insert(0, str(path.parent.absolute()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@contextmanager
def _failing(what: str, way_out: str) -> Iterator[None]:
    """Makes one line of what a user's code raises."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{what} fails with {type(error).__name__}: {reason}; {way_out}."
        ) from error
