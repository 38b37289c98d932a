"""Checkpoints in shares, for a model that no process has whole: a folder, a sealed file a process.

Each process writes what it has of every tensor that was cut, and needs no more memory than it has.
All else is in the first one's file, with an empty tensor, on torch's device `meta`, wherever one
was cut.

**Atomic.** The folder has a temporary name until every process has written and synchronised its
file. Then the first one renames it. Where one of them fails, on a full disk say, all of them do,
and what was there before still is.

**Whole.** Besides its seal each file says whose it is, of how many, and of which saving: a missing
one is noticed, and so is one of another checkpoint, as an interrupted copy leaves it.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_map_with_path

from genodiff.files import atomic_path, remove_leftovers, rename, temporary_name
from genodiff.ranks import Ranks
from genodiff.training.sealed import UnreadableError, read_sealed, write_sealed


@dataclass(frozen=True)
class Share:
    """What a process has of a tensor that was cut along `axis`, in the order of the ranks: parts
    of any length, 0 included."""

    part: Tensor
    axis: int


def write_shares(checkpoint: Any, path: Path, *, keep: Path | None, ranks: Ranks) -> None:
    """Writes the folder `path`; what it was until then is renamed `keep`, if given. Called by all
    ranks, whose `checkpoint`s differ in their `Share`s.

    Raises OSError on all of them where the disk refuses any; what was there is then still there.
    """
    rest, parts = _cut(checkpoint)
    temporary = ranks.together([temporary_name(path)])[0]
    contents = {"saving": temporary.name, "rank": ranks.rank, "size": ranks.size, "parts": parts}
    is_first = ranks.rank == 0
    if is_first:
        contents["rest"] = rest
    try:
        with _agreeing(ranks):
            if is_first:
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(path.parent)
                temporary.mkdir()
        with _agreeing(ranks), atomic_path(temporary / _name(ranks.rank)) as file:
            write_sealed(contents, file)
        with _agreeing(ranks):
            if is_first:
                rename(temporary, path, keep=keep)
    finally:
        if is_first:
            shutil.rmtree(temporary, ignore_errors=True)


def read_shares(path: Path) -> Any:
    """The checkpoint in the folder `path`, its tensors put together.

    Raises UnreadableError unless all its files are whole and of one saving.
    """
    first = _read(path, 0)
    files = [first, *(_read(path, rank) for rank in range(1, first["size"]))]
    for rank, file in enumerate(files):
        if file["saving"] != first["saving"]:
            raise UnreadableError(f"{_name(rank)} is of another checkpoint than {_name(0)}")

    def put_together(place: tuple[Any, ...], leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if not leaf.is_meta:
            return leaf.clone()  # for the file is mapped
        parts, axes = zip(*(file["parts"][keystr(place)] for file in files), strict=True)
        return torch.cat(parts, axes[0])

    return tree_map_with_path(put_together, first["rest"])


def holds_shares(path: Path) -> bool:
    """Whether `path` is a checkpoint in shares, or what is left of one."""
    return path.is_dir() and any(path.glob(_name("*")))


def _name(rank: int | Literal["*"]) -> str:
    return f"share_{rank}.pt"


def _read(folder: Path, rank: int) -> dict[str, Any]:
    """A process' file."""
    path = folder / _name(rank)
    if not path.is_file():
        raise UnreadableError(f"{path.name} is missing")
    try:
        contents = read_sealed(path, mapped=True)
    except UnreadableError as error:
        raise UnreadableError(f"{path.name}: {error}") from error
    if not isinstance(contents, dict) or contents.get("rank") != rank:
        raise UnreadableError(f"{path.name} is another file")
    return contents


def _cut(checkpoint: Any) -> tuple[Any, dict[str, tuple[Tensor, int]]]:
    """The checkpoint without its shares, and these with their axes, by their places in it."""
    parts: dict[str, tuple[Tensor, int]] = {}

    def cut(place: tuple[Any, ...], leaf: Any) -> Any:
        if not isinstance(leaf, Share):
            return leaf
        parts[keystr(place)] = leaf.part, leaf.axis
        return torch.empty(0, device="meta")

    return tree_map_with_path(cut, checkpoint), parts


@contextmanager
def _agreeing(ranks: Ranks) -> Iterator[None]:
    """Ends on all ranks alike: with an OSError where any has one."""
    failure = None
    try:
        yield
    except OSError as error:
        failure = error.errno, error.strerror or str(error)
    failures = [one for one in ranks.together([failure]) if one is not None]
    if failures:
        raise OSError(*failures[0])
