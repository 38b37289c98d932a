"""`genodiff fetch` from the command line's side; the transfers are in tests/data/test_download."""

import hashlib
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from genodiff.config import config_dir
from genodiff.errors import UserError
from genodiff.tasks import fetch
from genodiff.tasks.fetch import ProgressLines, remote_files
from tests.data.server import cut, serving, stall
from tests.tasks.conftest import Genodiff

FASTA = b">chr1\nACGTACGTAC\n"
BED = b"chr1\t0\t10\ttrain\n"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that has what dataset=hg38 names, and little else."""
    monkeypatch.setenv("no_proxy", "*")
    bucket = tmp_path / "www" / "pub" / "basenji_barnyard2"
    bucket.mkdir(parents=True)
    (bucket / "hg38.ml.fa.gz").write_bytes(FASTA)
    (bucket / "sequences_human.bed").write_bytes(BED)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "www")))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/pub"
    server.shutdown()
    server.server_close()
    thread.join()


def assert_refused(genodiff: Genodiff, message: str, *words: str, code: int = 2) -> None:
    outcome = genodiff("fetch", *words, "out=out")
    complaint = [line for line in outcome.stderr.splitlines() if line.startswith("genodiff ")]
    assert outcome.code == code, outcome
    assert len(complaint) == 1 and re.search(message, complaint[0]), outcome.stderr
    assert "Traceback" not in outcome.stderr and outcome.stdout == ""
    assert not Path("out").exists() or not list(Path("out").glob("[!.]*"))


def test_hg38_arrives_where_its_data_looks_for_it(genodiff: Genodiff, mirror: str) -> None:
    words = ("dataset=hg38", f"mirror={mirror}", "out=data/hg38", "seed=1", "device=cpu")
    outcome = genodiff("fetch", *words)
    assert outcome.code == 0 and outcome.stdout == "", outcome
    assert Path("data/hg38/hg38.ml.fa.gz").read_bytes() == FASTA
    assert Path("data/hg38/human-sequences.bed").read_bytes() == BED
    assert hashlib.sha256(BED).hexdigest() in Path("data/hg38/SHA256SUMS").read_text()
    assert "Source: hg38 with the major allele" in outcome.stderr
    assert "Licence: none is stated" in outcome.stderr
    outcome = genodiff("fetch", *words)
    assert outcome.code == 0 and outcome.stderr.count("is there and verified") == 2


def test_the_splits_alone(genodiff: Genodiff, mirror: str) -> None:
    outcome = genodiff("fetch", "dataset=hg38_splits", f"mirror={mirror}/", "out=out")
    assert outcome.code == 0, outcome
    assert {p.name for p in Path("out").glob("[!.]*")} == {"human-sequences.bed", "SHA256SUMS"}


def test_any_url_with_a_digest_and_a_name(genodiff: Genodiff, mirror: str) -> None:
    url = f"dataset.url={mirror}/basenji_barnyard2/sequences_human.bed"
    digest = hashlib.sha256(BED).hexdigest()
    outcome = genodiff(
        "fetch", "dataset=url", url, f"dataset.sha256={digest}", "dataset.name=a.bed", "out=out"
    )
    assert outcome.code == 0, outcome
    assert Path("out/a.bed").read_bytes() == BED


def test_a_dataset_of_one_s_own(genodiff: Genodiff, mirror: str) -> None:
    Path("mine/dataset").mkdir(parents=True)
    url = f"{mirror}/basenji_barnyard2/sequences_human.bed"
    manifest = {"source": "me", "licence": "CC0", "files": [{"url": url, "name": "b.bed"}]}
    Path("mine/dataset/ours.yaml").write_text(yaml.safe_dump(manifest))
    outcome = genodiff("fetch", "--config-dir=mine", "dataset=ours", "out=out")
    assert outcome.code == 0, outcome
    assert "Source: me" in outcome.stderr and "Licence: CC0" in outcome.stderr
    assert Path("out/b.bed").read_bytes() == BED


def test_a_file_that_differs_is_refused_until_overwritten(genodiff: Genodiff, mirror: str) -> None:
    words = ("dataset=hg38_splits", f"mirror={mirror}", "out=out")
    assert genodiff("fetch", *words).code == 0
    Path("out/human-sequences.bed").write_text("other")
    outcome = genodiff("fetch", *words)
    assert outcome.code == 2 and "is there and differs: sha256" in outcome.stderr
    assert genodiff("fetch", *words, "overwrite=true").code == 0
    assert Path("out/human-sequences.bed").read_bytes() == BED


def test_mistakes_are_refused_in_one_line(genodiff: Genodiff, mirror: str) -> None:
    assert_refused(genodiff, r"dataset=hg39 is none of .*hg38_splits", "dataset=hg39")
    assert_refused(genodiff, r"You must specify 'dataset'")
    assert_refused(genodiff, "mirror=nowhere is not a URL", "dataset=hg38", "mirror=nowhere")
    assert_refused(genodiff, r"dataset.url= is required", "dataset=url")
    assert_refused(genodiff, "url=ftp://host/x is not", "dataset=url", "dataset.url=ftp://host/x")
    missing = ("dataset=url", f"dataset.url={mirror}/none.fa")
    assert_refused(genodiff, "answers 404 .*; check the URL", *missing)
    unknown = ("dataset=url", f"dataset.url={mirror}/none.fa", "dataset.sha265=a")
    assert_refused(genodiff, "unknown key dataset.sha265=", *unknown)


def test_a_failure_outside_exits_with_1(genodiff: Genodiff, mirror: str) -> None:
    words = ("dataset=hg38_splits", f"mirror={mirror}")
    wrong = hashlib.md5(b"").hexdigest()
    url = f"dataset.url={mirror}/basenji_barnyard2/sequences_human.bed"
    assert_refused(
        genodiff, "corrupt twice .md5", "dataset=url", url, f"dataset.md5={wrong}", code=1
    )
    assert genodiff("fetch", *words, "out=out").code == 0


def test_an_interrupted_fetch_exits_with_130(
    genodiff: Genodiff, mirror: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "fetch_files", interrupt)
    assert genodiff("fetch", "dataset=hg38_splits", f"mirror={mirror}", "out=out").code == 130


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_goes_on_where_it_stopped(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with serving(FASTA) as site:
        site.answers = [cut(9, stall)]
        words = ["fetch", "dataset=url", f"dataset.url={site.host}/x.fa", f"out={tmp_path}"]
        command = [sys.executable, "-m", "genodiff", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 120
        while not (tmp_path / ".x.fa.part").exists() or not (tmp_path / ".x.fa.part").read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130 and out == b"", err
        assert err.endswith(b"genodiff fetch: interrupted.\n")
        done = subprocess.run(command, capture_output=True, timeout=120)
        assert done.returncode == 0 and done.stdout == b"", done.stderr
        assert site.ranges == [None, "bytes=9-"]
    assert (tmp_path / "x.fa").read_bytes() == FASTA


def test_every_dataset_that_comes_with_genodiff_is_well_formed() -> None:
    paths = sorted((config_dir() / "dataset").glob("*.yaml"))
    names = {path.stem for path in paths} - {"url"}
    assert {"hg38", "hg38_splits", "hg38_ucsc", "hg19_ucsc", "mm10_ucsc", "mm39_ucsc"} <= names
    for path in paths:
        manifest = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.stem == "url":
            assert set(manifest) == {"url", "name", "sha256", "md5", "size_bytes"}
            continue
        assert set(manifest) == {"source", "licence", "files"}, path
        files = remote_files(manifest)
        assert files and all(file.url.startswith("https://") for file in files)
        assert path.stem in fetch.__doc__.split("Then:")[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"files": [{"url": "http://h/x", "sha1": "a"}]}, r"unknown key dataset.files\[0\].sha1="),
        ({"files": [{"name": "x"}]}, r"dataset.files\[0\].url= is required"),
        ({"files": [{"url": "http://h/x", "md5": 12}]}, r"dataset.files\[0\].md5=12 is not text"),
        ({"files": {"url": "http://h/x"}}, "dataset.files=.* is not a list"),
        ({"files": ["http://h/x"]}, "dataset.files=.* is not a list"),
        ({"source": "x", "licence": "y"}, "unknown key dataset.source="),
    ],
)
def test_malformed_datasets_are_refused(manifest: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        remote_files(manifest)


def test_progress_is_a_line_every_half_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    times = iter([0.0, 0.0, 10.0, 29.0, 40.0, 41.0, 80.0])
    with ProgressLines(clock=lambda: next(times)) as progress:
        for done in (1, 2, 3, 40, 41, 81):
            progress("x.fa", done * 1_000_000, 5_000_000_000)
    assert [record.getMessage() for record in caplog.records] == [
        "x.fa: 40 of 5,000 MB, 1.0 MB/s",
        "x.fa: 81 of 5,000 MB, 1.0 MB/s",
    ]


def test_progress_is_a_bar_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with ProgressLines() as progress:
        progress("x.fa", 10, 20)
        progress("x.fa", 20, 20)
        progress("y.fa", 5, None)
    shown = capsys.readouterr()
    assert shown.out == "" and "x.fa: 100%" in shown.err and "y.fa" in shown.err
