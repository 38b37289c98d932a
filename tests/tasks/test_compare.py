"""`genodiff compare` from end to end: what was planted is found, and nothing where nothing was."""

import json
import logging
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from genodiff.data import SyntheticGenome
from genodiff.evaluation.comparison_page import comparison_page
from genodiff.tasks import compare
from genodiff.tasks.launch import launch
from tests.tasks.browser import measured, needs_browser, shown
from tests.tasks.conftest import Genodiff

LETTERS = np.frombuffer(b"ACGT", np.uint8)
COMPLEMENT = str.maketrans("ACGT", "TGCA")
MOTIF = "TGACTCATGC"
MEME = "MEME version 4\n\nALPHABET= ACGT\n\n" + "".join(
    f"MOTIF M{i} tf{i}\nletter-probability matrix: alength= 4 w= {len(consensus)}\n"
    + "".join(
        " ".join("0.97" if base == letter else "0.01" for base in "ACGT") + "\n"
        for letter in consensus
    )
    + "\n"
    for i, consensus in enumerate((MOTIF, "GGGCGGGGAC", "CACGTGACCA"))
)


def law(gc: float = 0.41) -> SyntheticGenome:
    return SyntheticGenome(n_motifs=3, motif_length=24, motif_fraction=0.3, gc=gc, seed=0)


def draw(n: int, length: int, seed: int, gc: float = 0.41) -> list[str]:
    ids = law(gc).draw(n, length, np.random.default_rng(seed))
    return [LETTERS[row - 7].tobytes().decode() for row in ids]


def fasta(path: Path, sequences: list[str]) -> str:
    path.write_text("".join(f">{path.stem}_{i}\n{text}\n" for i, text in enumerate(sequences)))
    return path.name


def planted(train: list[str], samples: list[str]) -> list[str]:
    """A motif in every sample, but every tenth is a copy from the middle of a training sequence,
    and every tenth the reverse complement of one."""
    length = len(samples[0])
    found = [text[:70] + MOTIF + text[70 + len(MOTIF) :] for text in samples]
    for i in range(0, len(samples), 10):
        found[i] = train[i // 10][100 : 100 + length]
        found[i + 5] = train[i // 10 + 1][100 : 100 + length].translate(COMPLEMENT)[::-1]
    return found


class Run(NamedTuple):
    """A comparison that was made: its folder, page and numbers."""

    folder: Path
    html: str
    results: dict[str, Any]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Samples with everything planted, against a reference of which half is set aside."""
    folder = tmp_path_factory.mktemp("compare")
    train = draw(30, 500, seed=1)
    fasta(folder / "train.fa", train)
    fasta(folder / "reference.fa", draw(120, 150, seed=2))
    fasta(folder / "samples.fa", planted(train, draw(60, 150, seed=3, gc=0.55)))
    (folder / "motifs.meme").write_text(MEME)
    words = ("samples=samples.fa", "reference=reference.fa", "train=train.fa")
    handlers, level = logging.root.handlers[:], logging.root.level
    terminate = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        # networks of a few steps tell less, and take seconds
        patch.setattr("genodiff.evaluation.discriminator._STEPS", 20)
        patch.setenv("HYDRA_FULL_ERROR", "1")
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["compare", *words, "motifs=motifs.meme", "out=page.html"])
        launch("compare", compare.main)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    signal.signal(signal.SIGTERM, terminate)
    assert ended.value.code == 0
    results = json.loads((folder / "page.json").read_text())
    return Run(folder, (folder / "page.html").read_text(), results)


def told(results: dict[str, Any], key: str) -> set[str]:
    findings = results["verdict"][key]["findings"]
    return {row["name"] for row in findings if row["p_corrected"] < 0.05}


def test_what_was_planted_is_found(run: Run) -> None:
    results = run.results
    assert not results["left_out"]
    assert {"GC content", "motif content", "logistic regression on k-mers"} <= told(
        results, "samples"
    )
    first = results["motifs"]["sets"]["samples"]["contents"][0]
    assert first["name"] == "M0" and first["log2_ratio_95"][0] > 1
    difference = results["composition"]["sets"]["samples"]["differences"]["gc"]
    assert difference["confidence_95"][0] > 0.03
    copies = results["memorisation"]["sets"]["samples"]
    assert copies["exact"]["value"] == pytest.approx(12 / 60)
    assert results["memorisation"]["sets"]["held_out"]["near"]["value"] == 0
    nearest = results["memorisation"]["nearest"]
    found = {(row["sample_name"], row["record_name"], row["strand"]) for row in nearest}
    assert {("samples_0", "train_0", 1), ("samples_5", "train_1", -1)} <= found
    assert all((row["record_start"], row["record_end"]) == (100, 250) for row in nearest)
    assert "20.0 % (0.0 %)" in results["verdict"]["samples"]["copying"]


def test_the_other_half_of_the_reference_is_not_told_from_it(run: Run) -> None:
    results = run.results
    assert told(results, "held_out") == set()
    assert "not distinguishable" in results["verdict"]["held_out"]["text"]
    for rows in results["words"]["sets"]["held_out"].values():
        assert rows["confidence_95"][0] == 0
    sizes = [results["sets"][key]["sequences"] for key in ("samples", "reference", "held_out")]
    assert sizes == [60, 60, 60]


def test_controls_stand_beside_the_samples_everywhere(run: Run) -> None:
    judged = {"samples", "held_out", "shuffled", "markov"}
    for name in ("words", "motifs", "memorisation", "classifier", "frechet"):
        assert set(run.results[name]["sets"]) == judged, name
    for name in ("composition", "diversity"):
        assert set(run.results[name]["sets"]) == judged | {"reference"}
    # pairs of neighbours are kept by shuffling, and three letters in a row are not
    shuffled = run.results["words"]["sets"]["shuffled"]
    of_held_out = run.results["words"]["sets"]["held_out"]
    assert shuffled["2"]["bits"] == pytest.approx(of_held_out["2"]["bits"])
    assert shuffled["5"]["confidence_95"][0] > of_held_out["5"]["debiased"]


def test_numbers_have_six_digits_and_lists_of_them_a_line(run: Run) -> None:
    text = (run.folder / "page.json").read_text()
    assert compare.rounded(run.results) == run.results
    edges = run.results["composition"]["sets"]["samples"]["gc_histogram"]["edges"]
    assert f'"edges": [ {", ".join(map(str, edges))} ]' in text
    value = {"a": [1, 2.00000049, math.nan, "[\n  1\n ]", {"b": (1e-9 / 3, True)}], "c": {}}
    plain = {"a": [1, 2.0, None, "[\n  1\n ]", {"b": [3.33333e-10, True]}], "c": {}}
    assert json.loads(compare.json_text(compare.rounded(value))) == plain


def test_the_page_is_made_of_the_numbers_alone(run: Run) -> None:
    assert comparison_page(run.results).html() == run.html


def test_the_page_is_one_file_that_loads_nothing(run: Run) -> None:
    assert not re.search(
        r"""(src|href)\s*=\s*["'](?!#|data:)|url\((?!#|data:)|@import""", run.html
    )
    assert "default-src 'none'" in run.html and "<script" not in run.html
    drawings = re.findall(r'role="img" aria-label="([^"]*)"', run.html)
    assert len(drawings) == run.html.count("<svg") >= 9
    assert all(len(alt) > 40 for alt in drawings)
    headings = [unescape(text) for text in re.findall(r"<h2>([^<]*)", run.html)]
    assert headings[0] == "In short" and len(headings) == 11
    assert run.results["inputs"]["train"]["sha256"] in run.html


def test_series_are_told_apart_without_colour(run: Run) -> None:
    from genodiff.evaluation.comparison_page.sets import LOOKS

    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)
    assert len({str(look.line) for look in LOOKS.values()}) == len(LOOKS)
    assert set(run.results["sets"]) <= set(LOOKS)


@needs_browser
def test_a_browser_shows_every_section_and_complains_of_nothing(run: Run) -> None:
    assert "How this was made" in shown(run.folder / "page.html")
    found = measured(run.folder / "page.html", 500)
    assert len(found.heights) > 15 and min(found.heights) > 40
    assert found.requests == 0
    assert found.width <= 500  # wide tables scroll, and the page does not


@pytest.fixture
def files(tmp_path: Path) -> Iterator[None]:
    """Small files that do for what ends at once."""
    fasta(tmp_path / "samples.fa", draw(12, 60, seed=3))
    fasta(tmp_path / "reference.fa", draw(20, 60, seed=2))
    fasta(tmp_path / "short.fa", ["ACGT" * 5] * 4)
    (tmp_path / "empty.fa").touch()
    (tmp_path / "protein.fa").write_text(">p\nMKLVEEF\n")
    (tmp_path / "text.fa").write_text("this is no sequence\n")
    (tmp_path / "same.fa").write_text((tmp_path / "reference.fa").read_text())
    (tmp_path / "one.fa").write_text(">a\n" + "ACGT" * 15 + "\n")
    (tmp_path / "broken.meme").write_text(MEME.replace("0.97 0.01", "0.97 0.5", 1))
    yield


GIVEN = {"samples": "samples.fa", "reference": "reference.fa", "out": "page.html"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"samples": "none.fa"}, "none.fa does not exist"),
        ({"samples": "empty.fa"}, "empty.fa holds no sequence"),
        ({"reference": "text.fa"}, "text.fa does not begin with '>'"),
        ({"reference": "protein.fa"}, "which is not an IUPAC letter of DNA"),
        ({"reference": "short.fa"}, "short.fa has no piece of 60 bases"),
        ({"length": "70"}, "samples.fa has no piece of 70 bases"),
        ({"length": "0"}, "length=0 must be 1 or more"),
        ({"sequences": "1"}, "sequences=1 must be 2 or more"),
        ({"markov_order": "-1"}, "markov_order=-1 must be 0 or more"),
        ({"markov_order": "40"}, "markov_order=40 must be 11 or less"),
        (
            {"samples": "one.fa"},
            "samples=one.fa is one sequence of 60 bases; give two or more, or a sm",
        ),
        ({"heldout": "same.fa"}, "reference=reference.fa and heldout=same.fa have the same"),
        ({"train": "same.fa"}, "reference=reference.fa and train=same.fa have the same"),
        ({"train": "protein.fa"}, "protein.fa: record 1"),
        ({"motifs": "broken.meme"}, "motif M0"),
        ({"out": "page.txt"}, "out=page.txt does not end in .html"),
        ({"checkpoint": "nowhere"}, "checkpoint"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_one_clear_line_and_nothing_is_written(
    genodiff: Genodiff, files: None, given: dict[str, str], message: str
) -> None:
    outcome = genodiff("compare", *(f"{key}={value}" for key, value in (GIVEN | given).items()))
    assert outcome.code == 2, outcome.stderr
    assert message in outcome.stderr.splitlines()[-1], outcome.stderr
    assert not [*Path().glob("page.*"), *Path().glob(".page*")]


def test_nothing_is_overwritten(genodiff: Genodiff, files: None) -> None:
    Path("page.json").write_text("mine")
    outcome = genodiff("compare", *(f"{key}={value}" for key, value in GIVEN.items()))
    assert outcome.code == 2 and "page.json exists" in outcome.stderr


def test_without_matplotlib_the_extra_is_named(
    genodiff: Genodiff, files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = genodiff("compare", *(f"{key}={value}" for key, value in GIVEN.items()))
    assert outcome.code == 2 and "pip install 'genodiff[report]'" in outcome.stderr


def test_what_has_too_few_sequences_or_no_input_is_left_out_and_said(
    genodiff: Genodiff, files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    fasta(Path("samples.fa"), draw(3, 60, seed=3))
    outcome = genodiff("compare", *(f"{key}={value}" for key, value in GIVEN.items()))
    assert outcome.code == 0, outcome.stderr
    found, page = json.loads(Path("page.json").read_text()), Path("page.html").read_text()
    assert set(found["left_out"]) == {
        *("held_out", "markov", "motifs", "memorisation", "classifier", "frechet"),
    }
    assert "20 sequences, too few" in found["left_out"]["held_out"]
    assert "motifs= was not given" in found["left_out"]["motifs"]
    for why in found["left_out"].values():
        assert why in unescape(page)
    assert set(found["sets"]) == {"samples", "reference", "shuffled"}


@pytest.mark.slow
def test_two_halves_of_one_set_are_indistinguishable(genodiff: Genodiff) -> None:
    sets = [fasta(Path(f"{name}.fa"), draw(600, 200, seed)) for name, seed in (("a", 5), ("b", 6))]
    sets.append(fasta(Path("c.fa"), draw(600, 200, seed=7)))
    fasta(Path("train.fa"), draw(60, 2000, seed=8))
    Path("m.meme").write_text(MEME)
    words = ("samples=a.fa", "reference=b.fa", "heldout=c.fa", "train=train.fa", "motifs=m.meme")
    outcome = genodiff("compare", *words, "out=page.html")
    assert outcome.code == 0, outcome.stderr
    found = json.loads(Path("page.json").read_text())
    for key in ("samples", "held_out"):
        # of twenty seeds one would give a set that is told apart by some figure
        assert told(found, key) == set()
        for name in ("kmers", "cnn"):
            assert 0.45 < found["classifier"]["sets"][key][name]["auroc"] < 0.55
        # 95 % intervals, and those of neighbouring lengths of words miss 0 together
        rows = found["words"]["sets"][key].values()
        assert sum(row["confidence_95"][0] > 0 for row in rows) <= 3
        low, high = found["frechet"]["sets"][key]["kmers"]["confidence_95"]
        assert low < 0 < high
    assert told(found, "shuffled") and told(found, "markov")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_records(tmp_path: Path) -> None:
    few, many = draw(500, 100, seed=1), draw(500, 100, seed=2)
    fasta(tmp_path / "train.fa", draw(20, 1000, seed=3))
    peaks = []
    for times in (2, 60):  # of the same sequences, so that nothing but their number differs
        fasta(tmp_path / "samples.fa", few * times)
        fasta(tmp_path / "reference.fa", [*many * times, "ACGT" * 25])
        words = ("samples=samples.fa", "reference=reference.fa", "train=train.fa", "sequences=400")
        code = (
            "import resource, sys; from genodiff.cli import main\n"
            "try: main()\n"
            "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "compare", *words, f"out={times}.html"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] < peaks[0] + 40  # MiB; of a gigabyte, which differs by some from run to run


@pytest.mark.slow
def test_a_kill_leaves_nothing_half_written(tmp_path: Path) -> None:
    for name, seed in (("samples", 1), ("reference", 2)):
        fasta(tmp_path / f"{name}.fa", draw(200, 100, seed))
    words = ("samples=samples.fa", "reference=reference.fa", "out=page.html")
    command = [sys.executable, "-m", "genodiff", "compare", *words]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("diversity"):
                process.kill()
                break
    assert {path.name for path in tmp_path.iterdir()} == {"samples.fa", "reference.fa"}


@pytest.mark.slow
def test_a_model_s_own_features_are_judged_too(genodiff: Genodiff, trained: str) -> None:
    Path("samples.fa").write_text("".join(f">s{i}\n{x}\n" for i, x in enumerate(draw(40, 64, 1))))
    Path("reference.fa").write_text(
        "".join(f">r{i}\n{x}\n" for i, x in enumerate(draw(200, 64, 2)))
    )
    words = ("samples=samples.fa", "reference=reference.fa", f"checkpoint={trained}")
    outcome = genodiff("compare", *words, "embedded=30", "out=page.html", "device=cpu")
    assert outcome.code == 0, outcome.stderr
    found = json.loads(Path("page.json").read_text())
    for section in ("classifier", "frechet"):
        for row in found[section]["sets"].values():
            assert row["network"]["given" if section == "frechet" else "sequences_given"][0] <= 30
    assert found["frechet"]["sets"]["samples"]["network"]["dimensions"] == 16
    assert "the model's own features" in Path("page.html").read_text().replace("&#x27;", "'")
