"""`fetch_files` against a server on the loopback interface that does all that servers do."""

import base64
import hashlib
import logging
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import genodiff
from genodiff.data import download
from genodiff.data.download import Patience, fetch_files
from genodiff.data.remote_file import RemoteFile
from genodiff.errors import OutsideError, UserError
from tests.data.server import (
    Answer,
    Handler,
    Site,
    chunked,
    cut,
    flipped,
    reset,
    serving,
    stall,
    status,
    unannounced,
    whole,
    whole_or_range,
)

BYTES = np.random.default_rng(0).integers(0, 256, 300_001, dtype=np.uint8).tobytes()
OTHER = BYTES[::-1]
SHA256, MD5 = hashlib.sha256(BYTES).hexdigest(), hashlib.md5(BYTES).hexdigest()


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with serving(BYTES) as site:
        yield site


class Fetch:
    """Fetches without real waiting, and remembers how long it would have waited."""

    def __init__(self, site: Site, folder: Path):
        self.site, self.folder = site, folder
        self.waits: list[float] = []
        self.tries, self.stall = 4, 10.0

    def __call__(self, *, overwrite: bool = False, **known: Any) -> None:
        file = RemoteFile(f"{self.site.host}/genomes/x.fa", **known)
        patience = Patience(stall=self.stall, tries=self.tries, sleep=self.waits.append)
        fetch_files([file], self.folder, overwrite=overwrite, patience=patience)

    @property
    def target(self) -> Path:
        return self.folder / "x.fa"

    @property
    def part(self) -> Path:
        return self.folder / ".x.fa.part"

    def assert_done(self, content: bytes = BYTES) -> None:
        assert self.target.read_bytes() == content
        digest = hashlib.sha256(content).hexdigest()
        assert (self.folder / "SHA256SUMS").read_text() == f"{digest}  x.fa\n"
        names = {path.name for path in self.folder.iterdir()}
        assert names == {"x.fa", "SHA256SUMS", ".fetch.lock"}


@pytest.fixture
def fetch(site: Site, tmp_path: Path) -> Fetch:
    return Fetch(site, tmp_path / "out")


def test_a_file_arrives_and_is_recorded_as_sha256sum_reads_it(fetch: Fetch) -> None:
    fetch(sha256=SHA256.upper(), md5=MD5, size_bytes=len(BYTES))
    fetch.assert_done()
    assert fetch.waits == [] and fetch.site.ranges == [None]
    if shutil.which("sha256sum"):
        checked = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=fetch.folder)
        assert checked.returncode == 0


def test_an_empty_file_arrives(fetch: Fetch) -> None:
    fetch.site.content = b""
    fetch()
    fetch.assert_done(b"")


def test_a_cut_transfer_goes_on_where_it_stopped(fetch: Fetch) -> None:
    fetch.site.answers = [cut(1000), cut(50_000)]
    fetch()
    fetch.assert_done()
    assert fetch.site.ranges == [None, "bytes=1000-", "bytes=51000-"]
    assert [asked.get("If-Range") for asked in fetch.site.asked] == [None, *2 * [fetch.site.etag]]
    assert fetch.waits == [1.0, 1.0]  # counted anew, because more had arrived


@pytest.mark.parametrize("end", [stall, reset])
def test_stalls_and_resets_are_survived_without_losing_what_arrived(
    fetch: Fetch, end: Answer
) -> None:
    fetch.stall = 0.5
    fetch.site.answers = [cut(70_000, end)]
    fetch(sha256=SHA256)
    fetch.assert_done()
    assert fetch.site.ranges == [None, "bytes=70000-"]


def test_a_server_that_never_answers_is_given_up_with_growing_waits(fetch: Fetch) -> None:
    fetch.site.default, fetch.stall = stall, 0.15
    with pytest.raises(OutsideError, match=r"the server sends nothing, 4 times in a row; 0 bytes"):
        fetch()
    assert fetch.waits == [1.0, 2.0, 4.0]
    assert Patience(longest_wait=60.0).wait(9) == 60


def test_failing_servers_are_asked_again_and_then_given_up_keeping_the_part(fetch: Fetch) -> None:
    fetch.site.answers = [status(500), cut(0), cut(7), status(503), status(429)]
    fetch()
    fetch.assert_done()
    fetch.target.unlink()
    fetch.site.answers, fetch.site.default = [cut(9)], status(502)
    with pytest.raises(OutsideError, match=r"answers 502 .*, 4 times in a row; 9 bytes are kept"):
        fetch()
    assert fetch.part.read_bytes() == BYTES[:9]
    fetch.site.default = whole_or_range
    fetch()
    fetch.assert_done()
    assert fetch.site.ranges[-1] == "bytes=9-"


def test_no_server_at_all_is_an_outside_error(fetch: Fetch) -> None:
    fetch.site.server.shutdown()
    fetch.site.server.server_close()
    with pytest.raises(OutsideError, match=r"connection failed .*refused.*; 0 bytes are kept"):
        fetch()


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_the_server_does_not_give_is_the_user_s_to_mend(fetch: Fetch, code: int) -> None:
    fetch.site.default = status(code)
    with pytest.raises(UserError, match=rf"answers {code} .*; check the URL, or .* mirror="):
        fetch()
    assert len(fetch.site.asked) == 1
    assert {path.name for path in fetch.folder.iterdir()} == {".fetch.lock"}


def test_a_server_that_refuses_ranges_sends_everything_again(fetch: Fetch) -> None:
    fetch.site.answers, fetch.site.default = [cut(1000)], whole
    fetch()
    fetch.assert_done()
    assert fetch.site.ranges == [None, "bytes=1000-"]


def test_without_progress_a_server_without_ranges_is_given_up(fetch: Fetch) -> None:
    def first_half(handler: Handler) -> None:
        handler.start(200, len(BYTES))
        handler.wfile.write(BYTES[: len(BYTES) // 2])

    fetch.site.default = first_half
    with pytest.raises(OutsideError, match="ended after 150000 of 300001 bytes, 4 times in a row"):
        fetch()


def test_a_length_that_is_a_lie_is_no_file(fetch: Fetch) -> None:
    def lie(handler: Handler) -> None:
        handler.start(200, len(BYTES) + 5)
        handler.wfile.write(BYTES)

    fetch.site.answers = [lie]
    fetch.site.default = status(416)
    with pytest.raises(OutsideError, match="4 times in a row"):
        fetch()
    assert not fetch.target.exists()


@pytest.mark.parametrize("is_honest", [True, False], ids=["If-Range", "no If-Range"])
def test_a_file_that_changes_between_two_tries_is_fetched_from_the_start(
    fetch: Fetch, is_honest: bool
) -> None:
    def changed(handler: Handler) -> None:
        handler.site.content = OTHER
        if not is_honest:
            del handler.headers["If-Range"]
        whole_or_range(handler)

    fetch.site.answers = [cut(1000), changed]
    fetch()
    fetch.assert_done(OTHER)
    assert fetch.site.ranges == [None, "bytes=1000-", *([] if is_honest else [None])]


def test_a_file_that_became_shorter_than_the_part_is_fetched_from_the_start(fetch: Fetch) -> None:
    def shorter(handler: Handler) -> None:
        handler.site.content = OTHER[:500]
        handler.start(416, 0, Content_Range="bytes */500")

    fetch.site.answers = [cut(1000), shorter]
    fetch()
    fetch.assert_done(OTHER[:500])


@pytest.mark.parametrize("span", ["bytes 999-300000/300001", "bytes 1000-300000/300002", ""])
def test_another_range_than_was_asked_for_is_not_believed(fetch: Fetch, span: str) -> None:
    def wrong(handler: Handler) -> None:
        handler.start(206, 300_001 - 1000, Content_Range=span)
        handler.wfile.write(BYTES[1000:])

    fetch.site.answers = [cut(1000), wrong]
    fetch()
    fetch.assert_done()
    assert fetch.site.ranges == [None, "bytes=1000-", None]


def test_without_a_validator_a_part_is_gone_on_with_only_under_a_digest(fetch: Fetch) -> None:
    fetch.site.headers = {"ETag": 'W/"weak"'}
    fetch.site.answers = [cut(1000)]
    fetch()
    assert fetch.site.ranges == [None, None]
    fetch.target.unlink()
    fetch.site.answers = [cut(1000)]
    fetch(sha256=SHA256)
    fetch.assert_done()
    assert fetch.site.ranges == [None, None, None, "bytes=1000-"]
    fetch.target.unlink()
    fetch.site.headers |= {"Last-Modified": "Tue, 18 Feb 2020 10:00:00 GMT"}
    fetch.site.answers = [cut(1000)]
    fetch()
    assert fetch.site.asked[-1]["If-Range"] == "Tue, 18 Feb 2020 10:00:00 GMT"


def test_a_part_of_another_url_is_not_gone_on_with(fetch: Fetch) -> None:
    fetch.site.answers = [cut(1000), *4 * [status(500)]]
    with pytest.raises(OutsideError):
        fetch()
    note = fetch.folder / ".x.fa.part.json"
    note.write_text(note.read_text().replace("genomes", "elsewhere"))
    fetch()
    fetch.assert_done()
    assert fetch.site.ranges[-1] is None


@pytest.mark.parametrize("damage", ["no note", "not json", "longer than announced"])
def test_a_part_without_a_good_note_is_not_gone_on_with(fetch: Fetch, damage: str) -> None:
    fetch.site.answers = [cut(1000), *4 * [status(500)]]
    with pytest.raises(OutsideError):
        fetch()
    if damage == "no note":
        (fetch.folder / ".x.fa.part.json").unlink()
    elif damage == "not json":
        (fetch.folder / ".x.fa.part.json").write_text("{")
    else:
        fetch.part.write_bytes(BYTES + b"more")
    fetch()
    fetch.assert_done()
    assert fetch.site.ranges[-1] is None


def announced_md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()


@pytest.mark.parametrize("header", ["x-goog-hash", "Content-MD5"])
def test_what_arrives_is_held_to_the_md5_that_the_server_announces(
    fetch: Fetch, header: str
) -> None:
    prefix = "crc32c=AAAAAA==,md5=" if header == "x-goog-hash" else ""
    fetch.site.headers = {header: prefix + announced_md5(BYTES)}
    fetch.site.answers = [flipped]
    fetch()
    fetch.assert_done()
    fetch.target.unlink()
    (fetch.folder / "SHA256SUMS").unlink()
    fetch.site.headers = {header: prefix + announced_md5(OTHER)}
    other = hashlib.md5(OTHER).hexdigest()
    with pytest.raises(OutsideError, match=f"corrupt twice .md5 {MD5} instead of {other}"):
        fetch()


def test_the_md5_of_a_file_that_is_unpacked_on_the_way_is_not_its_own(fetch: Fetch) -> None:
    fetch.site.headers = {
        "x-goog-hash": "md5=" + announced_md5(OTHER),
        "x-goog-stored-content-encoding": "gzip",
    }
    fetch()
    fetch.assert_done()


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": MD5}], ids=["sha256", "md5"])
def test_a_corrupt_file_is_fetched_once_more_from_the_start(
    fetch: Fetch, known: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    fetch.site.answers = [flipped]
    with caplog.at_level(logging.WARNING):
        fetch(**known)
    fetch.assert_done()
    assert fetch.site.ranges == [None, None]
    assert "arrived corrupt" in caplog.text and "once more" in caplog.text


def test_a_file_that_is_corrupt_twice_is_refused_with_both_digests(fetch: Fetch) -> None:
    fetch.site.content = OTHER
    got = hashlib.sha256(OTHER).hexdigest()
    with pytest.raises(OutsideError, match=f"corrupt twice .sha256 {got} instead of {SHA256}"):
        fetch(sha256=SHA256)
    assert len(fetch.site.asked) == 2
    assert {path.name for path in fetch.folder.iterdir()} == {".fetch.lock"}


def test_an_announced_length_that_is_not_the_known_one_is_refused_at_once(fetch: Fetch) -> None:
    with pytest.raises(OutsideError, match="announces 300001 bytes instead of 300000"):
        fetch(size_bytes=300_000)
    assert len(fetch.site.asked) == 1 and not fetch.part.exists()


def test_chunks_are_complete_by_their_end(fetch: Fetch) -> None:
    fetch.site.answers = [chunked(3), chunked()]
    fetch.site.default = chunked()
    fetch()
    fetch.assert_done()


def test_what_could_be_cut_unnoticed_is_refused_unless_its_digest_is_known(fetch: Fetch) -> None:
    fetch.site.default = unannounced
    with pytest.raises(UserError, match=r"neither length nor digest, .*; give the file's sha256="):
        fetch()
    fetch(md5=MD5)
    fetch.assert_done()


def test_a_file_that_is_there_and_right_is_not_fetched_again(fetch: Fetch) -> None:
    fetch()
    several: list[dict[str, Any]] = [{}, {"sha256": SHA256}, {"md5": MD5}]
    for known in several:
        fetch(**known)
        fetch(**known, overwrite=bool(known))
    assert len(fetch.site.asked) == 1


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}, {"md5": MD5, "size_bytes": len(BYTES)}])
def test_a_file_that_is_there_and_differs_is_refused_until_overwritten(
    fetch: Fetch, known: dict[str, Any]
) -> None:
    fetch()
    damaged = BYTES[:-1] + b"x"
    fetch.target.write_bytes(damaged)
    with pytest.raises(UserError, match=r"is there and differs: .* instead of .*; overwrite=true"):
        fetch(**known)
    assert fetch.target.read_bytes() == damaged
    fetch(**known, overwrite=True)
    fetch.assert_done()


def test_a_file_of_unknown_origin_is_held_to_what_the_server_announces(fetch: Fetch) -> None:
    fetch.folder.mkdir()
    fetch.target.write_bytes(BYTES[:-1])
    with pytest.raises(UserError, match="differs: 300000 bytes instead of 300001"):
        fetch()
    fetch.site.headers = {"Content-MD5": announced_md5(BYTES)}
    fetch.target.write_bytes(OTHER)
    with pytest.raises(UserError, match=f"instead of {MD5}"):
        fetch()
    fetch.target.write_bytes(BYTES)
    fetch()
    fetch.assert_done()
    (fetch.folder / "SHA256SUMS").unlink()
    fetch.site.headers, fetch.site.default = {}, chunked()
    with pytest.raises(UserError, match="nothing is known to check it by; give its sha256="):
        fetch()


def test_a_recorded_digest_holds_until_it_is_overwritten(fetch: Fetch) -> None:
    fetch()
    fetch.target.unlink()
    fetch.site.content = OTHER
    with pytest.raises(OutsideError, match=rf"instead of {SHA256}.*overwrite=true\s+forgets"):
        fetch()
    fetch(overwrite=True)
    fetch.assert_done(OTHER)


def test_other_rows_of_the_sums_stay_as_they_are(fetch: Fetch) -> None:
    fetch.folder.mkdir()
    rows = f"# of 2026\n{64 * 'a'}  another file.fa\n{64 * 'b'} *x.fa\nMD5 (y.fa) = 00\n"
    (fetch.folder / "SHA256SUMS").write_text(rows)
    fetch(overwrite=True)
    written = (fetch.folder / "SHA256SUMS").read_text()
    assert written == rows.replace(f"{64 * 'b'} *", f"{SHA256}  ")
    fetch()
    assert (fetch.folder / "SHA256SUMS").read_text() == written
    (fetch.folder / "SHA256SUMS").write_bytes(b"\xff\n")
    with pytest.raises(UserError, match="SHA256SUMS is not what sha256sum writes"):
        fetch()


def test_a_full_disk_is_noticed_before_and_survived_during(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        usage = shutil.disk_usage(".")._replace(free=100)
        patched.setattr(download.shutil, "disk_usage", lambda path: usage)
        with pytest.raises(
            OutsideError, match=r"300001 bytes are missing of x\.fa and 100 are free"
        ):
            fetch()

    def fill(*args: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(download, "write_text", fill)
        with pytest.raises(OutsideError, match=r"x\.fa cannot be written into .*No space left"):
            fetch()
    fetch()
    fetch.assert_done()


def test_a_folder_that_cannot_be_written_is_refused(fetch: Fetch) -> None:
    fetch.folder.write_text("a file")
    with pytest.raises(UserError, match=r"out=.* cannot be written .*; choose a folder"):
        fetch()
    fetch.folder.unlink()
    fetch.target.mkdir(parents=True)
    with pytest.raises(UserError, match="is not a file; choose another out="):
        fetch()


@pytest.mark.parametrize(
    ("url", "name", "message"),
    [
        ("ftp://host/x", None, "url=ftp://host/x is not a URL; give http://"),
        ("host/x.fa", None, "url=host/x.fa is not a URL"),
        ("file:///etc/passwd", None, "is not a URL"),
        ("http://host:port/x", None, "is not a URL"),
        ("http://me:secret@host/x", None, "is not a URL"),
        ("http://host/a b", None, "is not a URL"),
        ("http://host/", None, "name= .of http://host/. is not a plain file name; give another"),
        ("http://host/x", "../x", r"name=\.\./x .* is not a plain file name"),
        ("http://host/x", ".x", "is not a plain file name"),
        ("http://host/x%2Fy", None, "is not a plain file name"),
        ("http://host/x", "SHA256SUMS", "is not a plain file name"),
    ],
)
def test_bad_urls_and_names_are_refused(url: str, name: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        RemoteFile(url, name)


def test_bad_digests_are_refused() -> None:
    with pytest.raises(UserError, match="sha256=abc is not 64 hexadecimal digits"):
        RemoteFile("http://host/x", sha256="abc")
    with pytest.raises(UserError, match=r"md5=.* is not 32 hexadecimal digits"):
        RemoteFile("http://host/x", md5=SHA256)


def test_a_mirror_takes_the_place_of_the_host(fetch: Fetch) -> None:
    file = RemoteFile("https://host.org:8080/a/b%20c.fa?v=1", sha256=SHA256)
    assert file.saved_as == "b c.fa"
    for mirror in ("http://m.org/pub", "http://m.org/pub/"):
        assert file.at(mirror).url == "http://m.org/pub/a/b%20c.fa?v=1"
    assert file.at("http://m.org").sha256 == SHA256 and file.at("http://m.org").name == "b c.fa"
    for bad in ("m.org", "ftp://m.org", "http://m.org/?a=b"):
        with pytest.raises(UserError, match=f"mirror={re.escape(bad)} "):
            file.at(bad)


def test_progress_tells_name_bytes_and_total(site: Site, tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    site.answers = [cut(1000)]
    fetch_files(
        [RemoteFile(f"{site.host}/x.fa")],
        tmp_path,
        patience=Patience(sleep=lambda seconds: None),
        progress=lambda *args: told.append(args),
    )
    assert told[0] == ("x.fa", 1000, len(BYTES)) and told[-1] == ("x.fa", len(BYTES), len(BYTES))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_a_part_that_the_next_goes_on_with(
    fetch: Fetch, number: signal.Signals
) -> None:
    fetch.site.answers = [cut(200_000, stall)]
    url = f"{fetch.site.host}/genomes/x.fa"
    process = subprocess.Popen(fetching(url, fetch.folder), stderr=subprocess.PIPE)
    wait_until(lambda: fetch.part.exists() and fetch.part.stat().st_size == 200_000)
    # Two at once: the second waits, and finds the lock free when the first is dead.
    second = subprocess.Popen(fetching(url, fetch.folder), stderr=subprocess.PIPE)
    time.sleep(0.3)
    process.send_signal(number)
    assert process.communicate(timeout=60) and process.returncode == -number
    assert second.communicate(timeout=60) and second.returncode == 0
    fetch.assert_done()
    assert fetch.site.ranges == [None, "bytes=200000-"]


def test_processes_that_fetch_the_same_file_fetch_it_once(fetch: Fetch) -> None:
    url = f"{fetch.site.host}/genomes/x.fa"
    several = [
        subprocess.Popen(fetching(url, fetch.folder), stderr=subprocess.PIPE) for _ in range(3)
    ]
    for process in several:
        assert process.communicate(timeout=60) and process.returncode == 0
    fetch.assert_done()
    assert len(fetch.site.asked) == 1


def fetching(url: str, folder: Path) -> list[str]:
    """A command that fetches; it loads only what it needs, so as not to wait for torch."""
    script = f"""
        import sys, types
        package = types.ModuleType("genodiff.data")
        package.__path__ = [{str(Path(download.__file__).parent)!r}]
        sys.modules["genodiff.data"] = package
        from pathlib import Path
        from genodiff.data.download import fetch_files
        from genodiff.data.remote_file import RemoteFile
        fetch_files([RemoteFile({url!r})], Path({str(folder)!r}))
    """
    root = Path(genodiff.__file__).parents[1]
    return [
        sys.executable,
        "-c",
        f"import sys; sys.path.insert(0, {str(root)!r})\n" + textwrap.dedent(script),
    ]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
