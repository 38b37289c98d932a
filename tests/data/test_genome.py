import errno
import gzip
import hashlib
import json
import logging
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyfaidx
import pytest
from Bio import bgzf

from genodiff.data import Genome, default_cache_dir, genome
from genodiff.errors import OutsideError, UserError
from tests.data.toys import ids_of, random_sequence, write_fasta

SEQUENCES = {
    name: random_sequence(length, np.random.default_rng(length))
    for name, length in {"chr1": 5003, "chr2": 1, "chrX": 61, "scaffold|7": 120}.items()
}


@pytest.fixture
def fasta(tmp_path: Path) -> Path:
    return write_fasta(tmp_path / "toy.fa", SEQUENCES, line_bases=61)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def assert_holds(opened: Genome, sequences: dict[str, str]) -> None:
    assert dict(opened.lengths) == {name: len(s) for name, s in sequences.items()}
    for name, sequence in sequences.items():
        assert np.array_equal(opened.fetch(name, 0, len(sequence)), ids_of(sequence)), name


def final_files(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.glob("*") if p.suffix in (".json", ".codes"))


@pytest.mark.parametrize("compression", ["plain", "bgzip", "gzip"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_bases_equal_those_of_pyfaidx(compression: str, end: str, tmp_path: Path) -> None:
    plain = write_fasta(tmp_path / "toy.fa", SEQUENCES, line_bases=61, end=end)
    path = plain if compression == "plain" else tmp_path / "toy.fa.gz"
    if compression == "bgzip":
        with bgzf.BgzfWriter(str(path)) as file:
            file.write(plain.read_bytes())
    elif compression == "gzip":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    ours = Genome(path, cache_dir=tmp_path / "cache")
    assert ours.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    rng = np.random.default_rng(1)
    with pyfaidx.Fasta(str(plain), as_raw=True) as oracle:
        for name in rng.choice(list(SEQUENCES), 200):
            start, end_ = np.sort(rng.choice(len(SEQUENCES[name]) + 1, 2, replace=False)).tolist()
            expected = str(oracle[name][start:end_])
            assert np.array_equal(ours.fetch(name, start, end_), ids_of(expected))
            is_lower = [letter.islower() for letter in expected]
            assert (ours.codes(name, start, end_) >= 128).tolist() == is_lower


def test_an_index_written_by_pyfaidx_or_samtools_is_accepted(tmp_path: Path, cache: Path) -> None:
    for end in ("\n", "\r\n"):
        path = write_fasta(tmp_path / "toy.fa", SEQUENCES, line_bases=61, end=end)
        pyfaidx.Faidx(str(path), rebuild=True).close()
        assert path.with_name("toy.fa.fai").exists()
        assert_holds(Genome(path, cache_dir=cache, reindex=True), SEQUENCES)
        path.with_name("toy.fa.fai").unlink()


def test_gather_reads_windows_at_offsets(fasta: Path, cache: Path) -> None:
    opened = Genome(fasta, cache_dir=cache)
    starts = np.array([0, 17, 4993])
    codes = opened.gather(starts + opened.offset("chr1"), 10)
    expected = [ids_of(SEQUENCES["chr1"][s : s + 10]) for s in starts]
    assert np.array_equal(codes & 127, expected)
    codes[:] = 0  # a copy: the map itself cannot be written
    assert_holds(opened, SEQUENCES)


def test_opening_again_does_not_encode_again(
    fasta: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Genome(fasta, cache_dir=cache)
    monkeypatch.setattr(genome, "encode_fasta", None)
    assert_holds(Genome(fasta, cache_dir=cache), SEQUENCES)


def test_the_default_cache_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / "genodiff" / "genomes"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == Path.home() / ".cache" / "genodiff" / "genomes"


def test_a_pickled_genome_reads_the_same(fasta: Path, cache: Path) -> None:
    opened = Genome(fasta, cache_dir=cache)
    opened.fetch("chr1", 0, 10)
    pickled = pickle.dumps(opened)
    assert len(pickled) < 5000  # the map is opened anew, not copied
    assert_holds(pickle.loads(pickled), SEQUENCES)


@pytest.mark.parametrize(
    ("chrom", "start", "end", "message"),
    [
        ("chr1", 0, 5004, r"chr1:0-5004 \(0-based, half-open\) is not inside chr1 .* has 5003"),
        ("chr1", -1, 5, "chr1:-1-5 .* is not inside"),
        ("chr1", 5, 5, "chr1:5-5 .* is not inside"),
        ("1", 0, 5, "no record '1'; it has 'chr1': use the FASTA's names"),
        ("chrY", 0, 5, r"no record 'chrY'; it has 4 records: chr1, chr2, chrX, \.\.\."),
    ],
)
def test_regions_outside_are_refused(
    chrom: str, start: int, end: int, message: str, fasta: Path, cache: Path
) -> None:
    with pytest.raises(UserError, match=message):
        Genome(fasta, cache_dir=cache).fetch(chrom, start, end)


def test_a_missing_fasta_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.fa does not exist; give the path"):
        Genome(tmp_path / "none.fa", cache_dir=tmp_path)
    with pytest.raises(UserError, match="is not a file"):
        Genome(tmp_path, cache_dir=tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_fasta_is_refused(fasta: Path, cache: Path) -> None:
    fasta.chmod(0)
    with pytest.raises(UserError, match="cannot be read"):
        Genome(fasta, cache_dir=cache)


def test_an_empty_fasta_is_refused_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "empty.fa"
    path.touch()
    with pytest.raises(UserError, match=r"empty\.fa holds no sequence"):
        Genome(path, cache_dir=cache)
    assert final_files(cache) == []
    assert not list(cache.glob("*.tmp")) + list(cache.glob(".*.tmp"))


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damaged_gzip_is_refused(damage: str, tmp_path: Path, cache: Path) -> None:
    path = tmp_path / "toy.fa.gz"
    data = bytearray(gzip.compress(write_fasta(tmp_path / "toy.fa", SEQUENCES).read_bytes()))
    if damage == "truncated":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"truncated or is not valid gzip|is not an IUPAC letter"):
        Genome(path, cache_dir=cache)
    assert final_files(cache) == []


def test_compression_is_remarked_upon(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "toy.fa.gz"
    caplog.set_level(logging.INFO)
    path.write_bytes(gzip.compress(b">a\nACGT\n"))
    Genome(path, cache_dir=cache)
    assert "is plain gzip, without random access: converted once" in caplog.text
    with bgzf.BgzfWriter(str(path)) as file:
        file.write(b">a\nACGT\n")
    path.write_bytes(path.read_bytes()[:-28])
    Genome(path, cache_dir=cache, reindex=True)
    assert "lacks the end marker of bgzip: it may be truncated" in caplog.text


def test_a_changed_fasta_is_refused_until_reindexed(fasta: Path, cache: Path) -> None:
    before = Genome(fasta, cache_dir=cache)
    changed = {**SEQUENCES, "chr1": SEQUENCES["chr1"].replace("A", "C")}
    write_fasta(fasta, changed, line_bases=61)
    os.utime(fasta, ns=(1, 1))
    with pytest.raises(UserError, match=r"FASTA changed after indexing .* delete that file"):
        Genome(fasta, cache_dir=cache)
    assert_holds(Genome(fasta, cache_dir=cache, reindex=True), changed)
    assert len(final_files(cache)) == 2  # the old codes are gone
    assert_holds(Genome(fasta, cache_dir=cache), changed)
    with pytest.raises(FileNotFoundError):  # and are not mistaken for the new ones
        before.fetch("chr1", 0, 1)


def test_a_copy_is_neither_encoded_nor_stored_again(
    fasta: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Genome(fasta, cache_dir=cache)
    other = write_fasta(fasta.with_name("other.fa"), {"a": "ACGT"})
    Genome(other, cache_dir=cache)
    copy = fasta.with_name("copy.fa")
    shutil.copy(fasta, copy)
    with monkeypatch.context() as patched:
        patched.setattr(genome, "encode_fasta", None)
        for _ in range(2):
            opened = Genome(copy, cache_dir=cache)
            assert_holds(opened, SEQUENCES)
            assert opened.path == copy
    assert len(list(cache.glob("*.codes"))) == 2 and len(list(cache.glob("*.json"))) == 3
    # Each path has its own state: the copy changes, and the codes of the first stay.
    write_fasta(copy, {"a": "ACGT"})
    with pytest.raises(UserError, match=r"copy\.fa: FASTA changed after indexing"):
        Genome(copy, cache_dir=cache)
    assert_holds(Genome(copy, cache_dir=cache, reindex=True), {"a": "ACGT"})
    assert_holds(Genome(fasta, cache_dir=cache), SEQUENCES)
    assert len(list(cache.glob("*.codes"))) == 2


def test_files_of_one_size_are_told_apart_by_their_contents(fasta: Path, cache: Path) -> None:
    Genome(fasta, cache_dir=cache)
    changed = {**SEQUENCES, "chr1": SEQUENCES["chr1"].replace("A", "C")}
    other = write_fasta(fasta.with_name("other.fa"), changed, line_bases=61)
    assert other.stat().st_size == fasta.stat().st_size
    assert_holds(Genome(other, cache_dir=cache), changed)
    assert_holds(Genome(fasta, cache_dir=cache), SEQUENCES)


def test_codes_of_no_path_are_deleted_by_the_next_build(fasta: Path, cache: Path) -> None:
    Genome(fasta, cache_dir=cache)
    next(cache.glob("*.json")).unlink()
    strangers = cache / "mine.codes", cache / ".mine.tmp"
    for stranger in strangers:
        stranger.touch()
    Genome(write_fasta(fasta.with_name("other.fa"), {"a": "ACGT"}), cache_dir=cache)
    assert len(list(cache.glob("*.codes"))) == 2 and all(path.exists() for path in strangers)


def test_a_full_disk_is_no_mistake_and_leaves_nothing(
    fasta: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(number: int) -> Callable[..., None]:
        def fail(*args: object) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    with monkeypatch.context() as patched:
        patched.setattr(genome, "encode_fasta", fill(errno.ENOSPC))
        with pytest.raises(OutsideError, match=r"toy\.fa cannot be encoded .*No space left.*room"):
            Genome(fasta, cache_dir=cache)
        patched.setattr(genome, "encode_fasta", fill(errno.ENXIO))
        with pytest.raises(OSError, match="No such device"):
            Genome(fasta, cache_dir=cache)
    assert {path.name for path in cache.iterdir()} == {"building.lock"}
    assert_holds(Genome(fasta, cache_dir=cache), SEQUENCES)


def test_a_touched_fasta_is_the_same_fasta(fasta: Path, cache: Path) -> None:
    Genome(fasta, cache_dir=cache)
    os.utime(fasta, ns=(1, 1))
    assert_holds(Genome(fasta, cache_dir=cache), SEQUENCES)
    index = json.loads(next(cache.glob("*.json")).read_text())
    assert index["source"]["mtime_ns"] == 1


@pytest.mark.parametrize("damage", ["not json", "another format", "codes gone", "codes cut"])
def test_a_damaged_cache_is_built_anew(damage: str, fasta: Path, cache: Path) -> None:
    Genome(fasta, cache_dir=cache)
    index, codes = next(cache.glob("*.json")), next(cache.glob("*.codes"))
    if damage == "not json":
        index.write_text("{")
    elif damage == "another format":
        index.write_text(json.dumps({**json.loads(index.read_text()), "format": 0}))
    elif damage == "codes gone":
        codes.unlink()
    else:
        codes.write_bytes(codes.read_bytes()[:-1])
    assert_holds(Genome(fasta, cache_dir=cache), SEQUENCES)


@pytest.mark.parametrize(
    "changed",
    [
        {**SEQUENCES, "chr1": SEQUENCES["chr1"] + "A"},
        {**SEQUENCES, "chr3": "ACGT"},
        {name: SEQUENCES[name] for name in reversed(SEQUENCES)},
    ],
    ids=["length", "records", "order"],
)
def test_a_fai_of_another_state_is_refused(
    changed: dict[str, str], fasta: Path, cache: Path
) -> None:
    pyfaidx.Faidx(str(fasta)).close()
    write_fasta(fasta, changed, line_bases=61)
    with pytest.raises(
        UserError, match=r"toy\.fa\.fai does not describe .* changed after indexing"
    ):
        Genome(fasta, cache_dir=cache)


def test_a_fai_of_other_line_lengths_is_refused(fasta: Path, cache: Path) -> None:
    pyfaidx.Faidx(str(fasta)).close()
    write_fasta(fasta, SEQUENCES, line_bases=60)
    with pytest.raises(UserError, match="does not describe"):
        Genome(fasta, cache_dir=cache)


def test_an_unusable_cache_folder_is_refused(fasta: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match=r"cannot be written .* another folder with cache_dir="):
        Genome(fasta, cache_dir=blocked / "cache")


def test_a_file_that_grows_while_it_is_read_is_refused(
    fasta: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = genome.encode_fasta

    def encode_while_growing(*args):
        with fasta.open("a") as file:
            file.write("A\n")
        return encode(*args)

    monkeypatch.setattr(genome, "encode_fasta", encode_while_growing)
    with pytest.raises(UserError, match="changed while it was being read"):
        Genome(fasta, cache_dir=cache)
    assert final_files(cache) == []


@pytest.mark.parametrize("fatal_rename", [1, 2])
def test_a_killed_build_leaves_nothing_that_is_used(
    fatal_rename: int, fasta: Path, cache: Path
) -> None:
    # The codes are renamed first and the index last; the process dies just before one of them.
    # Only the modules needed are loaded, under their own names, so as not to wait for torch.
    script = f"""
        import os, signal, sys, types
        package = types.ModuleType("genodiff.data")
        package.__path__ = [{str(Path(genome.__file__).parent)!r}]
        sys.modules["genodiff.data"] = package
        sys.modules["torch"] = types.ModuleType("torch")
        sys.modules["torch"].Tensor = type("Tensor", (), {{}})
        from genodiff.data.genome import Genome
        replace, calls = os.replace, []
        def die(*args):
            calls.append(args)
            if len(calls) == {fatal_rename}:
                os.kill(os.getpid(), signal.SIGKILL)
            return replace(*args)
        os.replace = os.rename = die
        Genome({str(fasta)!r}, cache_dir={str(cache)!r})
    """
    root = str(Path(genome.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not list(cache.glob("*.json"))
    assert list(cache.glob(".*.tmp"))
    assert_holds(Genome(fasta, cache_dir=cache), SEQUENCES)
    assert not list(cache.glob(".*.tmp"))  # swept by the next build
    assert len(final_files(cache)) == 2


def _open_and_read(arguments: tuple[Path, Path]) -> list[int]:
    opened = Genome(arguments[0], cache_dir=arguments[1])
    return opened.fetch("chr1", 0, 5003).tolist()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_concurrent_builders_agree(fasta: Path, cache: Path) -> None:
    copy = fasta.with_name("copy.fa")
    shutil.copy(fasta, copy)
    with multiprocessing.get_context("fork").Pool(4) as pool:
        for _ in range(5):
            shutil.rmtree(cache, ignore_errors=True)
            jobs = [(fasta, cache), (copy, cache)] * 4
            for read in pool.map(_open_and_read, jobs, chunksize=1):
                assert read == ids_of(SEQUENCES["chr1"]).tolist()
            assert len(final_files(cache)) == 3  # two paths, one genome
