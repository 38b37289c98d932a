"""`genodiff score`: VCFs scored from the command line, and everything that can be wrong in one."""

import gzip
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from genodiff.cli import task_help
from genodiff.data import REASONS
from genodiff.tasks import score as task
from genodiff.tasks.model import load_model
from tests.data.toys import reverse_complement
from tests.tasks.conftest import SMALL, Genodiff
from tests.tasks.test_sharing import run

HEAD = "##fileformat=VCFv4.2\n##source=test\n"
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
Row = Sequence[str | int | float]


@pytest.fixture
def sequences(genome: tuple[str, str]) -> dict[str, str]:
    lines = Path("genome.fa").read_text().split()
    return {name[1:]: letters for name, letters in zip(lines[::2], lines[1::2], strict=True)}


def ask(*words: str) -> tuple[str, ...]:
    files = ("checkpoint=trained", "genome=genome.fa", "variants=v.vcf", "device=cpu")
    return ("score", *files, "context=64", "samples=4", *words)


def write(rows: Sequence[Row], head: str = HEAD + COLUMNS) -> None:
    lines = ("\t".join(map(str, row)) + "\n" for row in rows)
    Path("v.vcf").write_text(head + "".join(lines))


def snv(sequences: dict[str, str], chrom: str, position: int, info: str = ".") -> Row:
    """With all three alternatives, at a position from 1."""
    ref = sequences[chrom][position - 1]
    others = ",".join(base for base in "ACGT" if base != ref)
    return (chrom, position, f"rs{position}", ref, others, ".", "PASS", info)


def fields(line: str) -> dict[str, list[str]]:
    """The INFO of a record."""
    pairs = (field.partition("=") for field in line.split("\t")[7].split(";"))
    return {name: value.split(",") for name, _, value in pairs}


def table(path: str) -> list[dict[str, str]]:
    names, *rows = (line.split("\t") for line in Path(path).read_text().splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_records_come_out_in_their_order_with_scores_and_reasons(
    genodiff: Genodiff, trained: str, sequences: dict[str, str]
) -> None:
    chr1, chr2 = sequences["chr1"], sequences["chr2"]
    wrong = "A" if chr1[9] != "A" else "C"
    rows: list[Row] = [
        (*snv(sequences, "chr2", 700, "AC=1;DB"), "GT", "0/1", "1/1"),
        (
            "chr1",
            500,
            ".",
            chr1[499:502].lower(),
            f"{chr1[499]},<DEL>,*",
            3.5,
            ".",
            ".",
            "GT",
            ".",
        ),
        ("chr1", 10, ".", wrong, "T", ".", ".", ".", "GT", "."),
        ("chrX", 10, ".", "A", "T", ".", ".", ".", "GT", "."),
        ("chr2", 2049, ".", "A", "T", ".", ".", ".", "GT", "."),
        ("chr2", 9, ".", chr2[8], ".", ".", ".", ".", "GT", "."),
        (*snv(sequences, "chr1", 1), "GT", "."),
    ]
    head = HEAD + COLUMNS.replace("INFO", "INFO\tFORMAT\ts1")
    write(rows, head)
    outcome = genodiff(*ask("out=out.vcf"))
    assert outcome.code == 0 and outcome.stdout == "", outcome.stderr
    assert outcome.stderr.splitlines()[-1] == (
        "7 records, 13 alleles: 7 scored (6 llr, 1 bound); 6 without a score: 1 NO_ALT, "
        "1 SYMBOLIC, 1 SPANNING_DELETION, 1 UNKNOWN_CHROM, 1 BEYOND_END, 1 REF_MISMATCH"
    )
    written = Path("out.vcf").read_text().splitlines()
    added = [line for line in written if line.startswith("##INFO=<ID=GD_")]
    assert len(added) == 4 and written[-8] == head.splitlines()[-1]
    assert [line for line in written if line not in added][:2] == HEAD.splitlines()
    assert "Number=A,Type=Float" in added[0]
    for line, row in zip(written[-7:], rows, strict=True):
        columns = line.split("\t")
        assert columns[:7] + columns[8:] == [*map(str, row[:7]), *map(str, row[8:])]
        assert columns[7].startswith("AC=1;DB;GD_") if "AC" in str(row[7]) else "AC" not in line
    infos = [fields(line) for line in written[-7:]]
    assert len(infos[0]["GD_SCORE"]) == 3 and infos[0]["GD_METHOD"] == ["llr"] * 3
    assert infos[0]["GD_SE"] == ["0"] * 3 and "GD_SKIP" not in infos[0]
    assert infos[1]["GD_METHOD"] == ["bound", ".", "."] and float(infos[1]["GD_SE"][0]) > 0
    assert infos[1]["GD_SKIP"] == [".", "SYMBOLIC", "SPANNING_DELETION"]
    skipped = ["REF_MISMATCH", "UNKNOWN_CHROM", "BEYOND_END", "NO_ALT"]
    assert [info.pop("GD_SKIP") for info in infos[2:6]] == [[reason] for reason in skipped]
    assert infos[2:6] == [{}] * 4
    report = json.loads(Path("out.json").read_text())
    assert report["records"] == 7 and report["scored"] == {"llr": 6, "bound": 1}
    assert report["skipped"]["REF_MISMATCH"] == 1 and report["context"] == 64
    assert {"seconds", "version", "genome_sha256", "variants_sha256"} <= report.keys()
    assert not [path for path in Path().glob(".*")]


def test_the_score_is_the_networks_own_ratio_on_both_strands(
    genodiff: Genodiff, trained: str, sequences: dict[str, str]
) -> None:
    """Written out by hand for one site: the mask at place 31 of 64 bases."""
    write([snv(sequences, "chr3", 1001)])
    assert genodiff(*ask("out=o.tsv")).code == 0
    model = load_model(Path(trained), torch.device("cpu"))
    window = sequences["chr3"][1000 - 31 : 1000 + 33]
    log_p = {}
    for strand, text in (("+", window), ("-", reverse_complement(window))):
        x = torch.from_numpy(model.tokenizer.encode(text))[None]
        place = 31 if strand == "+" else 32
        x[0, place] = model.tokenizer.mask_id
        with torch.no_grad():
            logits = model.network(x, None)[0, place, 7:11].double().log_softmax(-1)
        log_p[strand] = dict(
            zip("ACGT" if strand == "+" else "TGCA", logits.tolist(), strict=True)
        )
    ref = window[31]
    for row in table("o.tsv"):
        both = (log_p[strand][row["alt"]] - log_p[strand][ref] for strand in "+-")
        assert float(row["score"]) == pytest.approx(sum(both) / 2, abs=1e-5)


def test_a_table_a_stream_and_bgzip_say_the_same(
    genodiff: Genodiff,
    trained: str,
    sequences: dict[str, str],
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    write(
        [
            snv(sequences, "chr1", 300),
            snv(sequences, "chr1", 200),
            ("chrX", 1, ".", "A", "T", *"..."),
        ]
    )
    outcomes = [genodiff(*ask(f"out={name}")) for name in ("o.vcf", "o2.vcf.gz", "o3.tsv")]
    assert [outcome.code for outcome in outcomes] == [0] * 3
    text = Path("o.vcf").read_text()
    assert gzip.decompress(Path("o2.vcf.gz").read_bytes()).decode() == text
    settings = json.loads(Path("o.json").read_text())
    keys = inspect.signature(task.main).parameters
    capsysbinary.readouterr()
    task.main(**{key: settings.get(key) for key in keys} | {"out": "-", "overwrite": False})
    assert capsysbinary.readouterr().out.decode() == text
    assert Path("o2.vcf.gz").read_bytes()[12:14] == b"BC"  # bgzip, which tabix can index
    rows = table("o3.tsv")
    assert [row["pos"] for row in rows] == ["300"] * 3 + ["200"] * 3 + ["1"]
    assert [row["score"] for row in rows[:3]] == fields(text.splitlines()[-3])["GD_SCORE"]
    last = {
        "chrom": "chrX",
        "pos": "1",
        "id": ".",
        "ref": "A",
        "alt": "T",
        "skip": "UNKNOWN_CHROM",
    }
    assert rows[-1] == last | dict.fromkeys(("score", "se", "method"), "NA")
    Path("packed.vcf.gz").write_bytes(gzip.compress(Path("v.vcf").read_bytes()))
    assert genodiff(*ask("variants=packed.vcf.gz", "out=o4.tsv")).code == 0
    assert table("o4.tsv") == rows


def test_each_kind_of_score_is_the_one_that_was_asked_for(
    genodiff: Genodiff, trained: str, sequences: dict[str, str]
) -> None:
    chr1 = sequences["chr1"]
    write([snv(sequences, "chr1", 300), ("chr1", 99, ".", chr1[98:101], chr1[98], *"...")])
    by = {}
    for name in ("auto", "llr", "bound", "both"):
        assert genodiff(*ask(f"score={name}", f"out={name}.tsv")).code == 0
        by[name] = table(f"{name}.tsv")
    assert [row["method"] for row in by["auto"]] == [*["llr"] * 3, "bound"]
    assert [row["method"] for row in by["bound"]] == ["bound"] * 4
    assert by["llr"][:3] == by["auto"][:3] and by["llr"][3]["skip"] == "INDEL"
    for both, auto, bound in zip(by["both"], by["auto"], by["bound"], strict=True):
        assert {name: both[name] for name in auto} == auto
        assert (both["bound"], both["bound_se"]) == (bound["score"], bound["se"])
    assert by["bound"][0]["score"] != by["auto"][0]["score"]


def test_the_other_strand_of_genome_and_variants_scores_the_same(
    genodiff: Genodiff, trained: str, sequences: dict[str, str]
) -> None:
    """With windows of an odd length, whose middle is the middle of the other strand too."""
    write([snv(sequences, "chr1", place) for place in (300, 2, 2047, 1000)])
    assert genodiff(*ask("context=63", "out=given.tsv")).code == 0
    turned = {name: reverse_complement(letters) for name, letters in sequences.items()}
    Path("turned.fa").write_text("".join(f">{n}\n{x}\n" for n, x in turned.items()))
    rows = [snv(turned, "chr1", 2049 - place) for place in (300, 2, 2047, 1000)]
    write(rows)
    assert genodiff(*ask("context=63", "genome=turned.fa", "out=other.tsv")).code == 0
    given = {(row["pos"], row["alt"]): float(row["score"]) for row in table("given.tsv")}
    assert len(given) == 12
    for row in table("other.tsv"):
        same = given[str(2049 - int(row["pos"])), reverse_complement(row["alt"])]
        assert float(row["score"]) == pytest.approx(same, abs=1e-4)


def test_models_that_are_equivariant_or_read_one_way_are_scored_too(
    genodiff: Genodiff, genome: tuple[str, str], sequences: dict[str, str]
) -> None:
    chr1 = sequences["chr1"]
    write([snv(sequences, "chr1", 300), ("chr1", 99, ".", chr1[98:101], chr1[98], *"...")])
    equivariant = [word.replace("backbone.", "backbone.trunk.") for word in SMALL]
    causal = ("backbone=mamba", "objective=next_token", *SMALL)
    for run_folder, words in (
        ("ps", ("backbone=caduceus_ps", *equivariant)),
        ("ar", causal),
    ):
        outcome = genodiff("train", *genome, *words, f"out={run_folder}")
        assert outcome.code == 0, outcome.stderr
        outcome = genodiff(*ask(f"checkpoint={run_folder}", f"out={run_folder}.tsv"))
        assert outcome.code == 0, outcome.stderr
    assert [row["method"] for row in table("ps.tsv")] == [*["llr"] * 3, "bound"]
    assert [row["method"] for row in table("ar.tsv")] == ["exact"] * 4
    assert {row["se"] for row in table("ar.tsv")} == {"0"}
    outcome = genodiff(*ask("checkpoint=ar", "score=llr", "out=x.tsv"))
    assert outcome.code == 2 and "log p itself; use score=auto" in outcome.stderr


def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "RECORDS", 3)


def test_a_run_that_was_stopped_goes_on_without_losing_or_doubling_a_record(
    genodiff: Genodiff,
    trained: str,
    sequences: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small_parts(monkeypatch)
    write([snv(sequences, "chr1", 100 + 7 * i) for i in range(10)])
    assert genodiff(*ask("out=whole.vcf")).code == 0
    scored, calls = task.Scorer.__call__, 0

    def stopping(self: task.Scorer, records: list[object]) -> object:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return scored(self, records)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(task.Scorer, "__call__", stopping)
        assert genodiff(*ask("out=o.vcf")).code == 130
    assert not Path("o.vcf").exists() and not Path("o.json").exists()
    outcome = genodiff(*ask("out=o.vcf", "seed=1"))
    assert outcome.code == 2 and "was begun by another command, with seed=0" in outcome.stderr
    calls = 3  # from here on it only counts
    with monkeypatch.context() as patch:
        patch.setattr(task.Scorer, "__call__", stopping)
        assert genodiff(*ask("out=o.vcf")).code == 0
    assert calls == 3 + 2  # of four parts two were there
    assert Path("o.vcf").read_bytes() == Path("whole.vcf").read_bytes()
    assert json.loads(Path("o.json").read_text())["records"] == 10


@pytest.mark.slow
def test_two_processes_and_a_kill_write_what_one_process_writes(
    trained: str, sequences: dict[str, str]
) -> None:
    chr2 = sequences["chr2"]
    rows = [snv(sequences, "chr1", 100 + i) for i in range(600)]
    rows += [("chr2", i, ".", chr2[i - 1 : i + 2], chr2[i - 1], *"...") for i in range(9, 50)]
    write(rows)
    run(*ask("batch_size=1", "out=one.vcf.gz"))
    run(*ask("batch_size=1", "out=two.vcf.gz", "devices=2"))
    killed = ask("batch_size=1", "out=killed.vcf.gz")
    words = (sys.executable, "-m", "genodiff", *killed)
    process = subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    folder = Path(".killed.vcf.gz.parts")
    while not (folder / "000000001").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not Path("killed.vcf.gz").exists() and 2 <= len(list(folder.glob("0*"))) < 6
    run(*killed)
    one, two, again = (Path(f"{name}.vcf.gz").read_bytes() for name in ("one", "two", "killed"))
    assert one == two == again
    assert json.loads(Path("two.json").read_text())["processes"] == 2
    lines = gzip.decompress(one).decode().splitlines()
    assert len(lines) == 641 + 7 and all("GD_SCORE=" in line for line in lines[7:])


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_records(
    trained: str, sequences: dict[str, str]
) -> None:
    """Of whole commands: 8,000 records against 500, where a record kept would be a kilobyte."""
    peaks = []
    for n in (500, 8000):
        write([snv(sequences, "chr1", 1 + i % 2000) for i in range(n)])
        words = ask("context=16", f"out={n}.vcf.gz")
        program = (
            "import resource, sys, runpy\n"
            "sys.argv = sys.argv[1:]\n"
            "try: runpy.run_module('genodiff.tasks.score', run_name='__main__', alter_sys=True)\n"
            "except SystemExit as ended: assert ended.code == 0\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] < peaks[0] + 6_000  # kilobytes


def test_keys_that_cannot_be_are_refused(
    genodiff: Genodiff, trained: str, sequences: dict[str, str]
) -> None:
    write([snv(sequences, "chr1", 300)])
    Path("taken.vcf").touch()
    for words, message in (
        (("out=o.bcf",), "out=o.bcf must end in .vcf, .vcf.gz, .tsv or .tsv.gz."),
        (("out=v.vcf", "overwrite=true"), "out=v.vcf is variants= too; choose another name."),
        (("out=taken.vcf",), "out=taken.vcf exists; choose another name, or overwrite=true."),
        (("samples=1", "out=o.vcf"), "samples=1 must be at least 2; leave it out."),
        (("context=1", "out=o.vcf"), "context=1 must be at least 2; leave it out."),
        (("seed=-1", "out=o.vcf"), "seed=-1 must be 0 or more."),
        (("score=ratio", "out=o.vcf"), "score=ratio is not one of"),
        (("variants=no.vcf", "out=o.vcf"), "no.vcf does not exist or is not a file"),
        (("devices=2", "out=-"), "out=- is of one process, and devices=2; give a file, or"),
    ):
        outcome = genodiff(*ask(*words))
        assert outcome.code == 2 and message in outcome.stderr, outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1
        assert not Path("o.vcf").exists()


def test_files_that_are_not_of_the_genome_are_one_line(
    genodiff: Genodiff, trained: str, sequences: dict[str, str]
) -> None:
    good = [snv(sequences, "chr1", 100 + i) for i in range(30)]

    def refused(message: str, *words: str) -> None:
        outcome = genodiff(*ask("out=o.vcf", *words))
        assert outcome.code == 2 and message in outcome.stderr, outcome.stderr
        assert len(outcome.stderr.strip().splitlines()) == 1 and not Path("o.vcf").exists()

    write([(row[0], int(row[1]) - 1, *row[2:]) for row in good])
    refused("and at POS + 1 in 30: its positions count from 0, and those of a VCF count from 1")
    write([(str(row[0])[3:], *row[1:]) for row in good])
    refused("no '1'; it has 'chr1': use the FASTA's names. bcftools annotate --rename-chrs")
    write([(*row[:3], row[4][0], row[3], *row[5:]) for row in good])  # type: ignore[index]
    refused("REF is what the genome has at POS in 0 of 30 records (chr1:100 has REF")
    write(good, head="")
    refused("v.vcf, line 1: a record before any line that begins with #CHROM")
    declared = '##INFO=<ID=GD_SCORE,Number=A,Type=Float,Description="">\n'
    write(good, head=HEAD + declared + COLUMNS)
    refused("v.vcf has GD_SCORE already; take it away (bcftools annotate -x INFO/GD_SCORE)")
    write(good)
    Path("cut.vcf.gz").write_bytes(gzip.compress(Path("v.vcf").read_bytes())[:200])
    refused("cut.vcf.gz is truncated or is not valid gzip", "variants=cut.vcf.gz")
    write([])  # which is nothing wrong
    outcome = genodiff(*ask("out=o.vcf"))
    assert outcome.code == 0 and "0 records, 0 alleles: 0 scored" in outcome.stderr
    assert Path("o.vcf").read_text().endswith(COLUMNS)


def test_every_reason_is_in_the_help() -> None:
    text = task_help("score")
    assert len(REASONS) == 13 and all(reason in text for reason in REASONS)
    assert all(name in text for name in task._FIELDS if name not in task._OF_BOTH)
