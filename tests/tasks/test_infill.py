"""Regions of a genome, written anew: what is kept, on which strand, in which batches, and stopped
anywhere."""

import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genodiff.data import Cover, DnaTokenizer, Genome, Stretches, read_regions
from genodiff.diffusion import Ancestral, FirstHitting, LogLinear, Sampler
from genodiff.tasks import batching, infill
from genodiff.tasks import sample as sample_task
from genodiff.tasks.batching import Ask, Plan
from genodiff.tasks.draw import Drawn, draw_batch
from genodiff.tasks.model import load_model
from tests.tasks.conftest import Genodiff
from tests.tasks.test_bad_input import assert_refused
from tests.tasks.test_design import read, report, reverse_complement
from tests.toy import LENGTH, MASK, World

Files = tuple[str, str]


@pytest.fixture
def regions(tmp_path: Path) -> str:
    (tmp_path / "regions.bed").write_text(
        "chr2\t100\t140\tforward\nchr2\t200\t230\tbackward\t0\t-\nchr3\t0\t20\n"
    )
    return "regions.bed"


def test_infilling_leaves_what_is_around_untouched(
    genodiff: Genodiff, genome: tuple[str, str], trained: str, regions: str, tmp_path: Path
) -> None:
    text, fasta = Path(genome[0].removeprefix("data.fasta=")).read_text(), tmp_path / "soft.fa"
    at = text.index(">chr2\n") + 6
    fasta.write_text(text[: at + 60] + text[at + 60 : at + 160].lower() + text[at + 160 :])
    chromosomes = read(str(fasta))
    (tmp_path / "keep.bed").write_text("chr2\t110\t115\nchr2\t500\t600\n")
    outcome = genodiff(
        "infill",
        *(f"checkpoint={trained}", f"genome={fasta}", f"regions={regions}", "keep=keep.bed"),
        *("context=30", "num_samples=3", "steps=8", "forbid=[AG]", "out=d.fa", "device=cpu"),
    )
    assert outcome.code == 0, outcome.stderr
    designs = read("d.fa")
    assert len(designs) == 9
    for header, sequence in designs.items():
        name = header.split("_")[0]
        if name == "forward":
            assert f"{name}_0 chr2:100-140(+) with_flanks=chr2:70-170 " in "".join(designs)
            window, first, last = chromosomes["chr2"][70:170], 30, 70
            assert sequence[40:45] == window[40:45].upper()
        elif name == "backward":
            window = chromosomes["chr2"][170:260]
            window, first, last = reverse_complement(window), 30, 60
        else:
            assert header.startswith("chr3:0-20_")
            window, first, last = chromosomes["chr3"][:50], 0, 20
        assert len(sequence) == len(window)
        assert sequence[:first] == window[:first] and sequence[last:] == window[last:]
        design = sequence[first:last]
        assert re.fullmatch("[ACGT]+", design) and design != window[first:last].upper()
        # No new AG or CT that has a new base; those of the genome alone may stay.
        written = np.zeros(len(window), bool)
        written[first:last] = True
        if name == "forward":
            written[40:45] = False
        for i in range(len(window) - 1):
            if written[i : i + 2].any():
                assert sequence[i : i + 2].upper() not in ("AG", "CT"), (header, i)
    written = report("d.json")
    assert written["regions"] == regions and written["n_regions"] == 3
    assert written["n_designs"] == 9 and written["bases_written"] == 3 * (35 + 30 + 20)
    assert 0 < written["network_calls"] <= written["network_evaluations"] <= 9 * 8
    assert 0 < written["seconds_outside_the_network"] < written["seconds"]


def test_what_is_kept_counts_in_patterns_and_in_gc(
    genodiff: Genodiff, genome: tuple[str, str], trained: str, tmp_path: Path
) -> None:
    text, fasta = Path(genome[0].removeprefix("data.fasta=")).read_text(), tmp_path / "kept.fa"
    at = text.index(">chr2\n") + 6
    fasta.write_text(text[: at + 100] + "GGGGGNAAAA" + text[at + 110 :])
    (tmp_path / "one.bed").write_text("chr2\t100\t120\tmy gene\nchr2\t100\t120\tmy gene\t0\t-\n")
    (tmp_path / "keep.bed").write_text("chr2\t100\t106\n")
    words = (f"checkpoint={trained}", f"genome={fasta}", "regions=one.bed", "keep=keep.bed")
    words = (*words, "context=8", "num_samples=4", "steps=8", "device=cpu", "overwrite=true")
    outcome = genodiff("infill", *words, "gc=[0.5,0.5]", "out=d.fa")
    assert outcome.code == 0, outcome.stderr
    designs = read("d.fa")
    assert len({header.split()[0] for header in designs}) == len(designs) == 8  # ids of their own
    for header, sequence in designs.items():
        design = sequence[8:28] if "(+)" in header else reverse_complement(sequence)[8:28]
        assert design[:6] == "GGGGGN"
        assert design.count("G") + design.count("C") == 10
    (tmp_path / "one.bed").write_text("chr2\t100\t120\tx\n")
    outcome = genodiff("infill", *words, "pattern=NNNNNNTATANNNNNNNNNN", "out=d.fa")
    assert outcome.code == 0, outcome.stderr
    assert all(s[8:18] == "GGGGGNTATA" for s in read("d.fa").values())
    for more, message in (
        (
            ("pattern=NNANNNNNNNNNNNNNNNNN",),
            "x (chr2:100-120): pattern cannot be satisfied with t",
        ),
        (("gc=[0.0,0.2]",), "x (chr2:100-120): gc=[0.0, 0.2]: of 20 bases 5 are kept G or C, and"),
        (("pattern=NN",), "x (chr2:100-120): pattern= has 2 letters for 20 bases"),
    ):
        assert_refused(genodiff, message, "infill", *words, *more, out="refused.fa")


def test_a_motif_of_any_kind_may_reach_into_the_flanks(
    genodiff: Genodiff, genome: tuple[str, str], trained: str, tmp_path: Path
) -> None:
    (tmp_path / "one.bed").write_text("chr2\t100\t140\n")
    fasta = genome[0].removeprefix("data.fasta=")
    outcome = genodiff(
        "infill",
        *(f"checkpoint={trained}", f"genome={fasta}", "regions=one.bed", "context=20", "steps=8"),
        *("require=[TAATACGACTCACTATAG]", "forbid=[CCANNNNNNNNNTGG,TAGGGATAACAGGGTAAT]"),
        *("out=d.fa", "device=cpu"),
    )
    assert outcome.code == 0, outcome.stderr
    for sequence in read("d.fa").values():
        both = sequence + "-" + reverse_complement(sequence)
        assert "TAATACGACTCACTATAG" in both
        assert not re.search("CCA.{9}TGG", sequence[10:50])


def test_designs_follow_motifs_where_the_region_says(
    genodiff: Genodiff, genome: tuple[str, str], trained: str, tmp_path: Path
) -> None:
    (tmp_path / "one.bed").write_text("chr1\t100\t130\tx\t.\t-\n")
    fasta = genome[0].removeprefix("data.fasta=")
    outcome = genodiff(
        "infill",
        *(f"checkpoint={trained}", f"genome={fasta}", "regions=one.bed", "context=20"),
        *("num_samples=2", "steps=8", "require=[GAATTC@3]", "gc=[0.5,0.5]", "out=-"),
    )
    assert outcome.code == 0, outcome.stderr
    for record in outcome.stdout.split(">")[1:]:
        design = record.split("\n", 1)[1].replace("\n", "")[20:50]
        assert design[3:9] == "GAATTC"
        assert design.count("G") + design.count("C") == 15


def test_regions_that_cannot_be_written_are_refused(
    genodiff: Genodiff, genome: tuple[str, str], trained: str, regions: str, tmp_path: Path
) -> None:
    fasta = genome[0].removeprefix("data.fasta=")
    (tmp_path / "beyond.bed").write_text("chr2\t2000\t2060\n")
    (tmp_path / "far.bed").write_text("chr1\t0\t20\n")
    (tmp_path / "all.bed").write_text("chr2\t0\t2000\n")
    (tmp_path / "other.bed").write_text("2\t0\t20\n")
    (tmp_path / "row.bed").write_text("chr2\t5\t20\nchr2\t5\n")
    always = (f"checkpoint={trained}", f"genome={fasta}", "device=cpu")
    for words, message in (
        (("regions=beyond.bed",), "beyond.bed, line 1: chr2:2000-2060 reaches beyond the 2048"),
        (("regions=none.bed",), "none.bed does not exist"),
        (
            ("regions=other.bed",),
            "other.bed, line 1: the FASTA has no chromosome '2'; it has 'chr2",
        ),
        (("regions=row.bed",), "row.bed, line 2: 2 columns separated by tabs, and 3 are needed"),
        ((f"regions={regions}", "keep=all.bed"), "forward (chr2:100-140) is kept as a whole"),
        ((f"regions={regions}", "context=-1"), "context=-1 must be 0 or more"),
        ((f"regions={regions}", "num_samples=0"), "num_samples=0 must be at least 1"),
        ((f"regions={regions}", "seed=-1"), "seed=-1 must be 0 or more"),
        ((f"regions={regions}", "keep=far.bed"), "keep=far.bed has no base in any region of"),
    ):
        assert_refused(genodiff, message, "infill", *always, *words, out="refused.fa")


def bed_rows(path: str) -> list[list[str]]:
    return [line.split("\t") for line in Path(path).read_text().splitlines()]


def infilled(genodiff: Genodiff, *words: str, out: str = "d.fa") -> str:
    """Runs it; what it says."""
    outcome = genodiff("infill", *words, f"out={out}", "device=cpu")
    assert outcome.code == 0, outcome.stderr
    return outcome.stderr


def test_the_bed_has_a_row_a_design_with_its_bases_on_the_plus_strand(
    genodiff: Genodiff, genome: Files, trained: str, regions: str
) -> None:
    fasta = genome[0].removeprefix("data.fasta=")
    infilled(genodiff, f"checkpoint={trained}", f"genome={fasta}", f"regions={regions}", "steps=4")
    designs = {header.split()[0]: letters for header, letters in read("d.fa").items()}
    rows, changed = bed_rows("d.bed"), 0
    assert [row[3] for row in rows] == list(designs) and len(rows) == 12
    for chrom, start_text, end_text, name, score, strand, letters in rows:
        start, end = int(start_text), int(end_text)
        assert (chrom, start, end, strand) == {
            "forward": ("chr2", 100, 140, "+"),
            "backward": ("chr2", 200, 230, "-"),
            "chr3:0-20": ("chr3", 0, 20, "+"),
        }[name.rsplit("_", 1)[0]]
        stretch, size = designs[name], end - start
        if strand == "-":
            stretch = reverse_complement(stretch)
        first = min(start, 512)
        assert letters == stretch[first : first + size]
        truth = read(fasta)[chrom][start:end]
        differing = sum(a != b for a, b in zip(letters, truth, strict=True))
        assert int(score) == round(1000 * differing / size)
        changed += differing
    assert report("d.json")["bases_changed"] == changed


def test_the_other_strand_of_a_genome_is_written_the_same(
    genodiff: Genodiff, genome: Files, trained: str, tmp_path: Path
) -> None:
    """Genome, regions and kept bases reverse-complemented, strands exchanged: the same question,
    and so the same designs."""
    chromosome = read(genome[0].removeprefix("data.fasta="))["chr1"]
    places = [(100, 120, "-"), (300, 320, "+"), (30, 50, "-")]
    kept = [(105, 108), (315, 318), (36, 37)]
    n = len(chromosome)
    for name, letters in (("here", chromosome), ("there", reverse_complement(chromosome))):
        (tmp_path / f"{name}.fa").write_text(f">chr1\n{letters}\n")
        rows, keep = places, kept
        if name == "there":
            other = {"+": "-", "-": "+"}
            rows = [(n - end, n - start, other[strand]) for start, end, strand in places]
            keep = [(n - end, n - start) for start, end in kept]
        lines = (f"chr1\t{start}\t{end}\tr\t0\t{strand}\n" for start, end, strand in rows)
        (tmp_path / f"{name}.bed").write_text("".join(lines))
        keep_lines = (f"chr1\t{start}\t{end}\n" for start, end in keep)
        (tmp_path / f"{name}_keep.bed").write_text("".join(keep_lines))
        infilled(
            genodiff,
            *(f"checkpoint={trained}", f"genome={name}.fa", f"regions={name}.bed"),
            *(f"keep={name}_keep.bed", "context=40", "pattern=NNNNNNNNNRYSWNNNNNNN", "steps=8"),
            *("forbid=[GATC]", "gc=[0.3,0.6]"),
            out=f"{name}_designs.fa",
        )
    here, there = read("here_designs.fa"), read("there_designs.fa")
    assert list(here.values()) == list(there.values()) and len(here) == 12
    for header, stretch in here.items():
        strand = header.split("(")[1][0]
        first = 30 if "chr1:30-" in header and strand == "+" else 40
        design = stretch[first : first + 20]
        assert re.match("[AG][CT][CG][AT]", design[9:13])
        for (start, _, _), (begin, end) in zip(places, kept, strict=True):
            if f"chr1:{start}-" in header:
                plus = reverse_complement(design) if strand == "-" else design
                assert plus[begin - start : end - start] == chromosome[begin:end]
    for row, mirrored in zip(
        bed_rows("here_designs.bed"), bed_rows("there_designs.bed"), strict=True
    ):
        assert row[6] == reverse_complement(mirrored[6]) and row[4] == mirrored[4]


def test_n_is_written_like_any_base_but_a_region_of_nothing_else_is_refused(
    genodiff: Genodiff, genome: Files, trained: str, tmp_path: Path
) -> None:
    text = Path(genome[0].removeprefix("data.fasta=")).read_text()
    at = text.index(">chr2\n") + 6
    (tmp_path / "gap.fa").write_text(text[: at + 110] + 20 * "N" + text[at + 130 :])
    (tmp_path / "r.bed").write_text("chr2\t100\t120\tpart\nchr2\t135\t145\tbeside\n")
    words = (f"checkpoint={trained}", "genome=gap.fa", "regions=r.bed", "context=8", "steps=4")
    stderr = infilled(genodiff, *words)
    assert "1 of 2 regions have N in the genome, which is written anew like any base" in stderr
    for header, letters in read("d.fa").items():
        if header.startswith("part"):
            assert re.fullmatch("[ACGT]{28}N{8}", letters)
        else:
            assert re.fullmatch("N{3}[ACGT]{23}", letters)
    assert report("d.json")["n_regions_with_n"] == 1
    (tmp_path / "r.bed").write_text("chr2\t0\t9\nchr2\t112\t120\tgap\t0\t-\n")
    message = (
        "gap (chr2:112-120) is nothing but N in the genome, so it is no sequence to write anew; "
        "leave it out of regions=."
    )
    assert_refused(genodiff, message, "infill", *words, out="refused.fa")
    (tmp_path / "r.bed").write_text("chr2\t112\t120\tgap\nchr2\t113\t120\nchr2\t0\t9\n")
    message = f"{message} It is the first of 2 that are refused."
    assert_refused(genodiff, message, "infill", *words, out="refused.fa")


@pytest.mark.parametrize("name", ["designs.jsonl", "designs.fa.gz", "designs.bed", "designs"])
def test_a_name_of_another_format_is_refused(
    genodiff: Genodiff, genome: Files, trained: str, regions: str, name: str
) -> None:
    message = f"out={name} must end in .fa, .fasta, .fna, .fas or .txt, as designs are written as"
    fasta = genome[0].removeprefix("data.fasta=")
    words = (f"checkpoint={trained}", f"genome={fasta}", f"regions={regions}")
    assert_refused(genodiff, message, "infill", *words, out=name)


@pytest.mark.parametrize("key", ["regions", "keep"])
def test_an_input_is_never_written_over(
    genodiff: Genodiff, genome: Files, trained: str, regions: str, key: str
) -> None:
    before = Path(regions).read_text()
    Path("other.bed").write_text(before)
    files = {"regions": "other.bed", key: f"../{Path.cwd().name}/{regions}"}
    assert_refused(
        genodiff,
        f"out=regions.fa would write regions.bed over {key}={files[key]}; choose another name",
        "infill",
        *(f"checkpoint={trained}", f"genome={genome[0].removeprefix('data.fasta=')}"),
        *(f"{name}={path}" for name, path in files.items()),
        "overwrite=true",
        out="regions.fa",
    )
    assert Path(regions).read_text() == before


def test_batches_are_full_and_of_one_kind() -> None:
    """Lengths and constraints in turns: as few batches as there can be, each of one kind."""
    kinds = [(100, b""), (80, b""), (80, b"x")]
    asks = [Ask(*kinds[i % 3], unknown=i % 2) for i in range(50)]
    plan = Plan(asks, num_samples=3, batch_size=8)
    batches = list(plan.batches())
    assert plan.n_designs == 150 and sorted(chain(*batches)) == list(range(150))
    of_a_kind = [3 * len(range(i, 50, 3)) for i in range(3)]
    assert len(batches) == plan.n_batches == sum(-(-count // 8) for count in of_a_kind)
    for batch in batches:
        assert (
            len({(asks[number // 3].length, asks[number // 3].constraints) for number in batch})
            == 1
        )


def test_blocks_follow_each_other_and_are_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BLOCK", 1000)
    asks = [Ask(length, b"", 0) for length in (300, 300, 2500, 10, 10, 999)]
    plan = Plan(asks, num_samples=2, batch_size=4)
    blocks = list(plan.blocks())
    assert [number for block in blocks for number in block] == list(range(12))
    sizes = [[asks[number // 2].length for number in block] for block in blocks]
    assert all(sum(size[:-1]) < 1000 for size in sizes)
    assert sizes[0] == [300, 300, 300, 300] and sizes[1] == [2500]


def test_regions_of_equal_length_go_through_the_network_together(
    genodiff: Genodiff, genome: Files, trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fasta = genome[0].removeprefix("data.fasta=")
    rows = (f"chr2\t{s}\t{s + (10 if s % 2 else 12)}\n" for s in range(100, 120))
    Path("r.bed").write_text("".join(rows))
    words = (f"checkpoint={trained}", f"genome={fasta}", "regions=r.bed", "context=8", "steps=4")
    Path("k.bed").write_text("chr2\t104\t106\n")
    for more, sizes in (
        ((), [8, 8, 4, 8, 8, 4]),  # 20 designs of either length
        (("keep=k.bed",), [8, 8, 4, 8, 8, 4]),
        (("forbid=[GATC]",), [8, 8, 4, 8, 8, 4]),
        # In those that begin at 100 to 105 they are elsewhere; the others are alike.
        (("keep=k.bed", "forbid=[GATC]"), [2, 2, 2, 8, 6, 2, 2, 2, 8, 6]),
    ):
        drawn: list[int] = []

        def spy(*arguments: Any, drawn: list[int] = drawn, **more: Any) -> Drawn:
            drawn.append(len(arguments[3]))
            return draw_batch(*arguments, **more)

        monkeypatch.setattr(infill, "draw_batch", spy)
        infilled(genodiff, *words, *more, "num_samples=2", "batch_size=8", "overwrite=true")
        assert sorted(drawn) == sorted(sizes), more


def test_one_row_a_batch_is_region_by_region(
    genodiff: Genodiff, genome: Files, trained: str, regions: str
) -> None:
    fasta = genome[0].removeprefix("data.fasta=")
    words = (f"checkpoint={trained}", f"genome={fasta}", f"regions={regions}", "context=20")
    infilled(genodiff, *words, "steps=8", "num_samples=2", "batch_size=1", "seed=3")
    model, source = load_model(Path(trained), torch.device("cpu")), Genome(fasta)
    rows = read_regions(regions, source.lengths)
    stretches = Stretches(source, rows, 20, Cover([]), DnaTokenizer())
    lengths = [len(stretch.x) for stretch in stretches]
    assert lengths == [80, 70, 40]  # each a kind of its own, so that batches come in this order
    alone = [
        draw_batch(
            *(model, model.denoiser, Ancestral(8)),
            torch.from_numpy(stretch.x)[None],
            seed=3,
            index=2 * i + j,
        ).sequences[0]
        for i, stretch in enumerate(stretches)
        for j in range(2)
    ]
    assert [letters.upper() for letters in read("d.fa").values()] == alone


@pytest.mark.parametrize("sampler", [Ancestral(100), FirstHitting()], ids=["steps", "hitting"])
def test_rows_that_are_given_different_tokens_are_drawn_each_from_its_own_law(
    sampler: Sampler,
) -> None:
    """By chi-squared at 99.9 %: two false alarms in a thousand seeds for each sampler."""
    world = World()
    given = torch.tensor([[MASK, 1, MASK], [0, MASK, 2]])
    x = given.repeat(4000, 1)
    generator = torch.Generator().manual_seed(0)
    samples = sampler(world.denoiser(LogLinear()), x, frozen=x != MASK, generator=generator)
    for row, drawn in zip(given, (samples[0::2], samples[1::2]), strict=True):
        fits = ((world.sequences == row) | (row == MASK)).all(-1)
        law = torch.where(fits, world.probabilities, 0.0)[fits]
        expected = 4000 * law / law.sum()
        counts = world.frequencies(drawn)
        assert counts[~fits].sum() == 0 and drawn.shape == (4000, LENGTH)
        statistic = float(((counts[fits] - expected) ** 2 / expected).sum())
        assert statistic < {9: 26.1, 3: 13.8}[len(law)]


def asked_of(task: str, genome: Files, trained: str, many: int = 3) -> tuple[str, ...]:
    """Words of a command that draws about twice as many batches."""
    words = (f"checkpoint={trained}", "device=cpu", "steps=4", "batch_size=3")
    if task == "sample":
        return ("sample", *words, f"num_samples={6 * many + 1}", "length=24")
    rows = "chr2\t{0}\t{1}\tr{0}\t0\t-\n"
    Path("r.bed").write_text(
        "".join(rows.format(s, s + 8 + s // 25 % 2) for s in range(0, 150, 25))
    )
    files = (f"genome={genome[0].removeprefix('data.fasta=')}", "regions=r.bed")
    return ("infill", *words, *files, f"num_samples={many}", "context=30", "gc=[0,0.7]")


@contextmanager
def stopping_after(batches: int, made: list[int], patched: pytest.MonkeyPatch) -> Iterator[None]:
    """The batches that are drawn are noted, and the one after so many is interrupted."""

    def draw(*arguments: Any, **more: Any) -> Drawn:
        if len(made) == batches:
            raise KeyboardInterrupt
        made.append(more["index"])
        return draw_batch(*arguments, **more)

    with patched.context() as patch:
        for task in (infill, sample_task):
            patch.setattr(task, "draw_batch", draw)
        yield


@pytest.mark.parametrize("task", ["infill", "sample"])
def test_a_command_that_was_stopped_goes_on_and_ends_the_same(
    genodiff: Genodiff,
    genome: Files,
    trained: str,
    monkeypatch: pytest.MonkeyPatch,
    task: str,
) -> None:
    words = asked_of(task, genome, trained)
    assert genodiff(*words, "out=straight.fa").code == 0
    made: list[int] = []
    for stop in (0, 3, 3, 5):  # the third time not a batch more is drawn
        with stopping_after(stop, made, monkeypatch):
            outcome = genodiff(*words, "out=d.fa")
        assert outcome.code == 130 and not Path("d.fa").exists()
    outcome = genodiff(*words, "out=d.fa", "seed=1")
    assert outcome.code == 2 and "begun by another command, with seed=0" in outcome.stderr
    with stopping_after(100, made, monkeypatch):
        assert genodiff(*words, "out=d.fa").code == 0
    assert made == list(range(len(made))) and len(made) >= 6  # each once
    for suffix in (".fa", ".bed") if task == "infill" else (".fa",):
        straight, resumed = (Path(f"{name}{suffix}").read_text() for name in ("straight", "d"))
        assert straight == resumed
    straight, resumed = report("straight.json"), report("d.json")
    for one in (straight, resumed):
        for key in ("seconds", "seconds_outside_the_network"):
            assert one.pop(key) > 0
    assert straight == resumed
    assert not list(Path().glob(".d.*"))


def fake(letters: str) -> Callable[..., Drawn]:
    """Draws that cost nothing."""

    def draw(_: Any, __: Any, ___: Any, x: torch.Tensor, **____: Any) -> Drawn:
        sequences = [(letters * x.shape[1])[: x.shape[1]] for _ in x]
        return Drawn(x, sequences, 1, len(x), 0, 0.1, 0.05)

    return draw


@pytest.mark.slow
@pytest.mark.parametrize("task", ["infill", "sample"])
def test_memory_does_not_grow_with_what_is_drawn(
    genodiff: Genodiff, genome: Files, trained: str, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    """2,000 more designs of 1,000 bases, 2 MB of text: not 0.6 MB more memory."""
    for module in (infill, sample_task):
        monkeypatch.setattr(module, "draw_batch", fake("ACGT"))
    monkeypatch.setattr(batching, "BLOCK", 1 << 16)
    fasta = genome[0].removeprefix("data.fasta=")
    Path("r.bed").write_text("".join(f"chr2\t{s}\t{s + 40}\n" for s in range(500, 1500, 100)))
    words = {
        "infill": (f"genome={fasta}", "regions=r.bed", "context=480"),
        "sample": ("length=1000",),
    }[task]

    def peak(count: int) -> int:
        tracemalloc.start()
        many = f"num_samples={count // 10 if task == 'infill' else count}"
        more = (f"checkpoint={trained}", *words, many, "batch_size=64", "overwrite=true")
        outcome = genodiff(task, *more, "out=d.fa", "device=cpu")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert outcome.code == 0, outcome.stderr
        assert Path("d.fa").read_text().count(">") == count
        return most

    peak(20)  # what is made once
    assert peak(2300) < peak(300) + 600_000


@pytest.mark.slow
@pytest.mark.parametrize("task", ["infill", "sample"])
def test_two_processes_that_are_killed_and_one_that_goes_on_write_what_one_writes(
    genome: Files, trained: str, task: str
) -> None:
    words = asked_of(task, genome, trained, many=100)
    run = [sys.executable, "-m", "genodiff", *words]
    subprocess.run([*run, "out=one.fa"], check=True)
    subprocess.run([*run, "out=two.fa", "devices=2"], check=True)
    killed = subprocess.Popen([*run, "out=three.fa", "devices=2"], start_new_session=True)
    folder = Path(".three.fa.parts")
    while killed.poll() is None and not list(folder.glob("0*")):
        time.sleep(0.01)
    assert killed.poll() is None
    os.killpg(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL and folder.exists()
    subprocess.run([*run, "out=three.fa"], check=True)
    for suffix in (".fa", ".bed") if task == "infill" else (".fa",):
        one, two, three = (
            Path(f"{name}{suffix}").read_bytes() for name in ("one", "two", "three")
        )
        assert one == two == three
    assert not folder.exists()
