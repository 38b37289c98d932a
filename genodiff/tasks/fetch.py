"""Download a genome and its splits, resumed where it stopped, and verified.

usage: genodiff fetch dataset=NAME out=DIR [key=value ...]

example:
  genodiff fetch dataset=hg38 out=data/hg38

keys:
  dataset=NAME        hg38         hg38.ml.fa.gz and human-sequences.bed: the human genome and the
                                   train, valid and test intervals of Basenji, HyenaDNA, Caduceus
                                   and MDLM, as data=hg38 reads them
                      hg38_splits  the intervals alone
                      genomic_benchmarks  its nine tasks, as data=genomic_benchmarks reads them
                      hg38_ucsc, hg19_ucsc, mm10_ucsc, mm39_ucsc  genomes of UCSC, soft-masked
                      text8, lambada  as data=text8 and data=lambada read them; other corpora come
                                   from the Hugging Face Hub by themselves
                      url          any file: dataset.url=URL, and if known dataset.sha256= or
                                   dataset.md5=; dataset.name= to save it under another name
                      or FILE.yaml of your own: --config-dir=CONFIGS, CONFIGS/dataset/FILE.yaml,
                      written as those in configs/dataset
  out=DIR             where the files go, beside what is there. A file that is there and right is
                      not fetched again, one that differs is refused
  mirror=URL          another server: takes the place of https://host in front of every file's path
  overwrite=true      replace what differs
  seed= device=       taken as everywhere; a download draws nothing and needs no device

What has arrived when a download is interrupted, by whatever, stays in DIR/.NAME.part: the same
command goes on from there. Every file is held to the digest that is known of it, or, where none is
published, to the length and MD5 that the server announces; its SHA-256 is recorded in
DIR/SHA256SUMS (for sha256sum -c), to which later fetches hold it. Proxies: http_proxy,
https_proxy.

Then: genodiff train data=hg38 data.root=DIR out=RUN
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from genodiff.data.download import fetch_files
from genodiff.data.remote_file import RemoteFile
from genodiff.errors import UserError
from genodiff.tasks.build import check_arguments
from genodiff.tasks.launch import launch

log = logging.getLogger(__name__)


def main(
    *,
    dataset: Mapping[str, Any],
    out: str,
    mirror: str | None,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    overwrite: bool,
) -> None:
    """Fetches; a download draws nothing and needs no device."""
    files = remote_files(dataset)
    if mirror is not None:
        files = [file.at(mirror) for file in files]
    for key in ("source", "licence"):
        if key in dataset:
            log.info("%s: %s", key.capitalize(), dataset[key])
    with ProgressLines() as progress:
        fetch_files(files, Path(out), overwrite=overwrite, progress=progress)


def remote_files(dataset: Mapping[str, Any]) -> list[RemoteFile]:
    """The files of a YAML of configs/dataset: those of its list `files`, or the only one, which it
    is itself.

    Raises UserError for unknown and missing keys and for values of the wrong type.
    """
    entries = dataset.get("files", [dataset])
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise UserError(
            f"dataset.files={entries} is not a list; give each file's url=, name=, ..."
        )
    for i, entry in enumerate(entries):
        check_arguments(
            RemoteFile, entry, f"dataset.files[{i}]" if "files" in dataset else "dataset"
        )
    return [RemoteFile(**entry) for entry in entries]


class ProgressLines:
    """A bar on a terminal, otherwise a line every `seconds`; both to stderr."""

    def __init__(self, seconds: float = 30.0, clock: Callable[[], float] = time.monotonic):
        self.seconds, self.clock = seconds, clock
        self._name = ""
        self._bar: tqdm | None = None
        self._last = (0.0, 0)

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        """Shows that `done` bytes of the file `name` are there."""
        if name != self._name:
            self._begin(name, done, total)
        if self._bar is not None:
            self._bar.total = total
            self._bar.update(done - self._bar.n)
            return
        now = self.clock()
        then, had = self._last
        if now - then >= self.seconds:
            of_total = "" if total is None else f" of {total / 1e6:,.0f}"
            speed = max(0, done - had) / (now - then) / 1e6
            log.info("%s: %s%s MB, %.1f MB/s", name, f"{done / 1e6:,.0f}", of_total, speed)
            self._last = (now, done)

    def _begin(self, name: str, done: int, total: int | None) -> None:
        self.__exit__()
        self._name, self._last = name, (self.clock(), done)
        if sys.stderr.isatty():
            scale = {"unit": "B", "unit_scale": True, "dynamic_ncols": True}
            self._bar = tqdm(desc=name, total=total, initial=done, **scale)


if __name__ == "__main__":
    launch("fetch", main)
