"""`genodiff embed`: files of vectors, however they are cut, stopped or shared."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy import ndarray

from genodiff.data import DnaTokenizer
from genodiff.diffusion import PlaidModel
from genodiff.evaluation import embed
from genodiff.tasks.formulation import SUBS
from genodiff.tasks.model import Model, build_model, load_model, save_model
from tests.backbones.toys import randomized
from tests.tasks.conftest import Genodiff, interrupted_once

TOKENIZER = DnaTokenizer()
RECORDS = [
    ("promoter", "ACGTTAGCNNTTAGGACCA" * 5),
    ("\u03b1-satellite", "ttagcatCATGGAC"),
    ("gap", "NNnnN"),
    ("codes", "ACGTRYSWKMACGT" * 20),
    ("promoter", "G"),  # a name may come twice
]
NAMES, LETTERS = [name for name, _ in RECORDS], [letters for _, letters in RECORDS]


def saved_model(folder: Path, **parts: Any) -> Model:
    """A model folder with random weights."""
    node = {"_target_": "genodiff.backbones.Caduceus", "d_model": 6, "n_layers": 1, "d_state": 2}
    model = build_model(
        {
            "backbone": node,
            "schedule": {"_target_": "genodiff.diffusion.LogLinear"},
            **SUBS,
            "time_conditioning": False,
            "tokenizer": {"_target_": "genodiff.data.DnaTokenizer"},
            **parts,
        }
    )
    randomized(model.network).float()
    save_model(model, folder)
    return model


@pytest.fixture
def model(genodiff: Genodiff) -> str:
    saved_model(Path("model"))
    return "checkpoint=model"


@pytest.fixture
def fasta(genodiff: Genodiff) -> str:
    text = "".join(f">{name} more\n{letters}\n" for name, letters in RECORDS)
    Path("a.fa").write_text(text, encoding="utf-8")
    return "sequences=a.fa"


def vectors(model: str, sequences: list[str], *, both: bool = True, **options: Any) -> ndarray:
    """In one go."""
    network = load_model(Path(model.partition("=")[2]), torch.device("cpu")).network
    tokens = [
        TOKENIZER.encode("".join(c if c in "ACGT" else "N" for c in text.upper()))
        for text in sequences
    ]
    options = {"pooling": "mean", "complement": TOKENIZER.complement if both else None, **options}
    with torch.no_grad():
        return embed(network, tokens, data_ids=TOKENIZER.data_ids, **options).vectors


def read(path: str) -> dict[str, Any]:
    """The arrays of a file, of either kind."""
    if path.endswith(".npz"):
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    table = pq.read_table(path).to_pydict()
    table["ids"] = np.array(table.pop("id"))
    found = table.pop("embedding")
    if isinstance(found[0][0], list):
        table["offsets"] = np.cumsum([0, *map(len, found)])
        found = [row for rows in found for row in rows]
    return {name: np.array(values) for name, values in {**table, "embeddings": found}.items()}


def small_parts(monkeypatch: pytest.MonkeyPatch, sequences: int = 2) -> None:
    monkeypatch.setattr("genodiff.tasks.embed.PART_SEQUENCES", sequences)


def close(actual: ndarray, expected: ndarray) -> None:
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("suffix", "words", "options"),
    [
        ("npz", (), {}),
        ("npz", ("pooling=last",), {"pooling": "last"}),
        ("npz", ("pooling=none", "strands=given"), {"pooling": "none", "both": False}),
        ("parquet", ("pooling=none",), {"pooling": "none"}),
        ("parquet", ("chunk=64", "overlap=40"), {"chunk": 64, "overlap": 40}),
    ],
)
def test_a_file_has_the_vector_of_each_sequence_in_order(
    genodiff: Genodiff,
    model: str,
    fasta: str,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    words: tuple[str, ...],
    options: dict[str, Any],
) -> None:
    small_parts(monkeypatch)
    outcome = genodiff("embed", model, fasta, *words, "device=cpu", f"out=a.{suffix}")
    assert outcome.code == 0 and outcome.stdout == "", outcome.stderr
    found = read(f"a.{suffix}")
    assert found["ids"].tolist() == NAMES
    assert found["counted"].tolist() == [85, 14, 0, 160, 1]
    close(found["embeddings"], vectors(model, LETTERS, **options))
    if "pooling=none" in words:
        assert found["offsets"].tolist() == np.cumsum([0, *map(len, LETTERS)]).tolist()
    else:
        assert "1 of 5 sequences have no base that counts" in outcome.stderr
        assert np.isnan(found["embeddings"]).all(1).tolist() == [0, 0, 1, 0, 0]
    report = json.loads(Path("a.json").read_text())
    assert report["n_sequences"] == 5 and report["n_bases"] == sum(map(len, LETTERS))
    assert report["n_bases_that_count"] == 260 and report["n_sequences_without_bases"] == 1
    assert report["width"] == 6 and report["sequences"] == "a.fa"
    assert (report["n_seams"] > 0) == ("chunk=64" in words)
    if suffix == "parquet":
        assert pq.ParquetFile("a.parquet").num_row_groups == 3
    assert {path.name for path in Path().iterdir() if path.name[0] in ".a"} == {
        *("a.fa", "a.json", f"a.{suffix}")
    }


def test_regions_are_read_on_their_strand_with_their_places(
    genodiff: Genodiff, model: str, genome: tuple[str, str]
) -> None:
    path = genome[0].partition("=")[2]
    Path("r.bed").write_text("chr2\t10\t300\tone\t0\t-\nchr3\t0\t7\n")
    chromosomes = dict(record.split("\n")[:2] for record in Path(path).read_text().split(">")[1:])
    pair = str.maketrans("ACGT", "TGCA")
    letters = [chromosomes["chr2"][10:300].translate(pair)[::-1], chromosomes["chr3"][:7]]
    for suffix in ("npz", "parquet"):
        outcome = genodiff(
            *("embed", model, f"genome={path}", "regions=r.bed", f"out=r.{suffix}"),
            *("pooling=last", "strands=given", "device=cpu", "overwrite=true"),
        )
        assert outcome.code == 0, outcome.stderr
        found = read(f"r.{suffix}")
        assert found["ids"].tolist() == ["one", "chr3:0-7"]
        assert found["chrom"].tolist() == ["chr2", "chr3"]
        assert found["start"].tolist() == [10, 0] and found["end"].tolist() == [300, 7]
        assert found["strand"].tolist() == ["-", "+"]
        close(found["embeddings"], vectors(model, letters, both=False, pooling="last"))


def test_a_genome_and_its_records_have_the_same_vectors(genodiff: Genodiff, model: str) -> None:
    records = RECORDS[:4]  # a genome has each name once
    Path("a.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in records))
    Path("a.bed").write_text("".join(f"{name}\t0\t{len(letters)}\n" for name, letters in records))
    assert genodiff("embed", model, "sequences=a.fa", "out=a.npz").code == 0
    outcome = genodiff("embed", model, "genome=a.fa", "regions=a.bed", "out=b.npz")
    assert outcome.code == 0, outcome.stderr
    assert np.array_equal(read("a.npz")["embeddings"], read("b.npz")["embeddings"], equal_nan=True)


@pytest.mark.parametrize(("suffix", "pooling"), [("npz", "none"), ("parquet", "mean")])
def test_what_is_stopped_goes_on_and_is_the_same_byte_for_byte(
    genodiff: Genodiff,
    model: str,
    fasta: str,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    pooling: str,
) -> None:
    small_parts(monkeypatch)
    words = ("embed", model, fasta, f"pooling={pooling}", "device=cpu")
    assert genodiff(*words, f"out=whole.{suffix}").code == 0
    made = interrupted_once(monkeypatch)
    assert genodiff(*words, f"out=a.{suffix}").code == 130
    assert made == [0, 1] and not Path(f"a.{suffix}").exists()
    other = genodiff(*words, "strands=given", f"out=a.{suffix}")
    assert other.code == 2 and "with strands=both where this one has given" in other.stderr
    outcome = genodiff(*words, f"out=a.{suffix}")
    assert outcome.code == 0 and made == [0, 1, 2], outcome.stderr
    assert Path(f"a.{suffix}").read_bytes() == Path(f"whole.{suffix}").read_bytes()
    reports = [json.loads(Path(f"{name}.json").read_text()) for name in ("a", "whole")]
    for report in reports:
        report.pop("seconds")
    assert reports[0] == reports[1]


def test_a_network_that_remembers_more_than_chunks_share_is_warned_of(
    genodiff: Genodiff, model: str
) -> None:
    Path("long.fa").write_text(">a\n" + "ACGGATTACAGT" * 40 + "\n")
    words = ("embed", model, "sequences=long.fa", "device=cpu")
    few = genodiff(*words, "chunk=40", "overlap=2", "out=few.npz")
    assert few.code == 0 and "give e.g. chunk=80 overlap=4" in few.stderr
    report = json.loads(Path("few.json").read_text())
    assert report["largest_seam"] > report["seam_tolerance"] and report["n_seams"] == 12
    many = genodiff(*words, "chunk=240", "overlap=200", "out=many.npz")
    assert many.code == 0 and "remembers" not in many.stderr
    whole = genodiff(*words, "out=whole.npz")
    assert whole.code == 0 and json.loads(Path("whole.json").read_text())["largest_seam"] is None
    short, long, whole = (read(f"{name}.npz")["embeddings"] for name in ("few", "many", "whole"))
    assert np.abs(short - whole).max() > 10 * np.abs(long - whole).max()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("out=a.npz",), "give sequences=FASTA, or genome=FASTA and regions=BED: one of them"),
        (("sequences=a.fa", "genome=a.fa", "out=a.npz"), "and not genome beside sequences"),
        (("genome=a.fa", "out=a.npz"), "genome= is given without regions=BED; give both"),
        (("regions=a.bed", "out=a.npz"), "regions= is given without genome=FASTA; give both"),
        (("sequences=a.fa", "out=a.txt"), "out=a.txt must end in .npz or .parquet"),
        (("sequences=a.fa", "out=-"), "out=- must end in .npz or .parquet"),
        (("sequences=none.fa", "out=a.npz"), "none.fa does not exist"),
        (("sequences=empty.fa", "out=a.npz"), "empty.fa holds no sequence"),
        (("sequences=protein.fa", "out=a.npz"), "'b', has 'E' at base 2"),
        (("genome=b.fa", "regions=b.bed", "out=a.npz"), "0-5 reaches beyond the 4 bases"),
        (("sequences=a.fa", "chunk=8", "overlap=8", "out=a.npz"), "chunk=8 overlap=8: chunks"),
        (("sequences=a.fa", "chunk=1", "out=a.npz"), "chunk=1 overlap=0: chunks"),
        (("sequences=a.fa", "pooling=max", "out=a.npz"), "pooling=max is not one of mean, last"),
        (("sequences=a.fa", "strands=minus", "out=a.npz"), "strands=minus is not one of both"),
        (("sequences=a.fa", "devices=0", "out=a.npz"), "devices=0 must be at least 1"),
        (("sequences=a.fa", "checkpoint=none", "out=a.npz"), "none does not exist"),
    ],
)
def test_mistakes_are_one_line(
    genodiff: Genodiff, model: str, fasta: str, words: tuple[str, ...], message: str
) -> None:
    Path("b.fa").write_text(">chr1\nACGT\n")
    Path("b.bed").write_text("chr1\t0\t5\n")
    Path("empty.fa").touch()
    Path("protein.fa").write_text(">a\nACGT\n>b\nAEL\n")
    given = () if any(word.startswith("checkpoint=") for word in words) else (model,)
    outcome = genodiff("embed", *given, *words, "device=cpu")
    assert outcome.code == 2, outcome.stderr
    line = outcome.stderr.splitlines()[-1]
    assert line.startswith("genodiff embed: ") and message in line, outcome.stderr
    assert not Path("a.npz").exists() and not Path("a.json").exists()


def test_a_file_is_not_written_over(genodiff: Genodiff, model: str, fasta: str) -> None:
    words = ("embed", model, fasta, "device=cpu")
    Path("a.npz").write_text("mine")
    outcome = genodiff(*words, "out=a.npz")
    assert outcome.code == 2 and "out=a.npz exists" in outcome.stderr
    assert genodiff(*words, "out=a.npz", "overwrite=true").code == 0
    assert len(read("a.npz")["ids"]) == 5


def test_models_without_states_of_dna_are_refused(genodiff: Genodiff, fasta: str) -> None:
    saved_model(Path("bytes"), tokenizer={"_target_": "genodiff.data.ByteTokenizer"})
    plaid = saved_model(
        Path("plaid"),
        **{name: None for name in ("schedule", "process", "parameterization")},
        denoiser={"_target_": "genodiff.diffusion.PlaidModel"},
        objective={"_target_": "genodiff.diffusion.PlaidNelbo"},
    )
    assert isinstance(plaid.denoiser, PlaidModel)
    for folder, message in (
        ("bytes", "reads the tokens of ByteTokenizer, and embed reads DNA"),
        ("plaid", "is a PlaidModel, whose network reads noised vectors"),
    ):
        outcome = genodiff("embed", f"checkpoint={folder}", fasta, "out=a.npz")
        assert outcome.code == 2 and message in outcome.stderr, outcome.stderr


def test_parquet_without_pyarrow_is_one_line(
    genodiff: Genodiff, model: str, fasta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    outcome = genodiff("embed", model, fasta, "out=a.parquet")
    assert outcome.code == 2 and "pip install 'genodiff[embed]'" in outcome.stderr
    assert genodiff("embed", model, fasta, "out=a.npz").code == 0


def test_positions_bound_a_chunk(
    genodiff: Genodiff, model: str, fasta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("genodiff.backbones.Caduceus.max_length", 64)
    outcome = genodiff("embed", model, fasta, "chunk=65", "out=a.npz")
    assert outcome.code == 2 and "chunk=65, but this model has 64 positions" in outcome.stderr
    assert genodiff("embed", model, fasta, "out=a.npz").code == 0
    report = json.loads(Path("a.json").read_text())
    assert (report["chunk"], report["overlap"]) == (64, 16) and report["n_seams"] > 0


COMMAND = (sys.executable, "-m", "genodiff", "embed", "checkpoint=model", "device=cpu")


def many(count: int, length: int = 40) -> str:
    """A FASTA of random sequences."""
    generator = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGT", np.uint8)
    with Path(f"{count}.fa").open("wb") as file:
        for i in range(count):
            bases = letters[generator.integers(0, 4, length)].tobytes()
            file.write(f">s{i}\n".encode() + bases + b"\n")
    return f"sequences={count}.fa"


@pytest.mark.slow
def test_two_processes_write_what_one_writes_and_a_kill_loses_nothing(
    genodiff: Genodiff, model: str
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    sequences = many(5000)
    subprocess.run([*COMMAND, sequences, "out=one.npz"], env=environment, check=True)
    subprocess.run([*COMMAND, sequences, "devices=2", "out=two.npz"], env=environment, check=True)
    assert Path("one.npz").read_bytes() == Path("two.npz").read_bytes()
    for _ in range(2):
        killed = subprocess.Popen([*COMMAND, sequences, "out=three.npz"], env=environment)
        before = len(list(Path(".three.npz.parts").glob("0*")))
        while len(list(Path(".three.npz.parts").glob("0*"))) == before:
            time.sleep(0.005)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    assert not Path("three.npz").exists()
    subprocess.run([*COMMAND, sequences, "out=three.npz"], env=environment, check=True)
    assert Path("one.npz").read_bytes() == Path("three.npz").read_bytes()
    assert json.loads(Path("three.json").read_text())["n_sequences"] == 5000


@pytest.mark.slow
def test_the_memory_of_a_hundred_thousand_sequences_is_that_of_a_thousand(
    genodiff: Genodiff, model: str
) -> None:
    peaks = []
    for count in (1024, 100_000):
        words = (many(count), "pooling=none", f"out={count}.npz")
        process = subprocess.Popen([*COMMAND, *words], env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peaks.append(usage.ru_maxrss / 1024)
    found = read("100000.npz")
    assert found["ids"].tolist() == [f"s{i}" for i in range(100_000)]
    assert found["embeddings"].nbytes == 96e6
    assert peaks[1] < peaks[0] + 30, peaks  # MiB
