"""Regions with their flanks, on either strand."""

from pathlib import Path

import numpy as np
import pytest

from genodiff.data import Cover, DnaTokenizer, Genome, Region, Stretches
from genodiff.errors import UserError

COMPLEMENT = str.maketrans("ACGTNacgtn", "TGCANtgcan")
CHROMOSOME = "ACGTTnACGGgatTACANNCCTGA"


def reverse_complement(text: str) -> str:
    return text.translate(COMPLEMENT)[::-1]


def stretches(
    folder: Path, *regions: Region, letters: str = CHROMOSOME, context: int = 4, keep: Cover
) -> Stretches:
    path = folder / f"{letters}.fa"
    path.write_text(f">chr1\n{letters}\n")
    genome = Genome(path, cache_dir=folder / "cache")
    return Stretches(genome, regions, context, keep, DnaTokenizer())


def keeping(*places: tuple[int, int]) -> Cover:
    return Cover(Region("chr1", start, end, "", "+") for start, end in places)


def test_a_stretch_is_the_flanks_and_masks_for_what_is_to_be_written(tmp_path: Path) -> None:
    region = Region("chr1", 3, 8, "r", "+")
    (stretch,) = stretches(tmp_path, region, keep=keeping((0, 4), (6, 7)))
    assert (stretch.start, stretch.end, stretch.span) == (0, 12, slice(3, 8))  # the end is cut off
    assert DnaTokenizer().decode(stretch.x).replace("[MASK]", "_") == "ACGT__A_GGGA"
    assert stretch.is_open.tolist() == [letter == "_" for letter in "ACGT__A_GGGA"]
    assert stretch.unknown == 1  # the n at 5; the N that stand elsewhere are not to be written


def test_a_design_is_text_on_its_strand_and_on_the_plus_strand(tmp_path: Path) -> None:
    region = Region("chr1", 13, 17, "r", "-")
    (stretch,) = stretches(tmp_path, region, keep=keeping((13, 14)))
    window = reverse_complement(CHROMOSOME[9:21])
    assert window == "GGNNTGTAatcC"
    design = "GGNNCCCAATCC"
    assert stretch.with_flanks(design) == "GGNNCCCAatcC"
    assert stretch.on_plus(design) == "TGGG"
    assert stretch.changed(design) == 3  # TGTA became CCCA


def test_a_region_is_the_same_on_either_strand_of_the_genome(tmp_path: Path) -> None:
    """The reverse complement of a genome, regions and kept bases is the same question."""
    n = len(CHROMOSOME)
    generator = np.random.default_rng(0)
    for _ in range(50):
        start, a, b = generator.integers(0, n - 6, 3).tolist()
        end = start + int(generator.integers(5, 7))
        here = Region("chr1", start, end, "r", "-")
        there = Region("chr1", n - end, n - start, "r", "+")
        keep = (a, a + 2), (b, b + 1)
        kept = keeping(*((n - last, n - first) for first, last in keep))
        (one,) = stretches(tmp_path, here, keep=keeping(*keep))
        mirrored = reverse_complement(CHROMOSOME)
        (other,) = stretches(tmp_path, there, letters=mirrored, keep=kept)
        assert one.span == other.span
        for name in ("x", "is_open", "codes"):
            assert (getattr(one, name) == getattr(other, name)).all()


@pytest.mark.parametrize(
    ("region", "keep", "message"),
    [
        (Region("chr1", 3, 8, "r", "+"), keeping((0, 9)), r"r \(chr1:3-8\) is kept as a whole"),
        (Region("chr1", 17, 19, "r", "-"), keeping(), r"r \(chr1:17-19\) is nothing but N in the"),
        (Region("chr1", 5, 6, "r", "+"), keeping(), r"r \(chr1:5-6\) is nothing but N in the gen"),
    ],
)
def test_a_region_with_nothing_to_write_or_nothing_known_is_refused(
    tmp_path: Path, region: Region, keep: Cover, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        stretches(tmp_path, region, keep=keep)[0]
