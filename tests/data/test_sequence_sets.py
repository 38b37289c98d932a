"""Sets of sequences of one length, cut from FASTA files."""

import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from genodiff.data.sequence_sets import SequenceSet, most_common_length, read_sequence_set
from genodiff.errors import UserError


def fasta(path: Path, *records: str) -> Path:
    path.write_text("".join(f">r{i}\n{letters}\n" for i, letters in enumerate(records)))
    return path


def random_dna(n: int, seed: int = 0) -> str:
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), size=n))


def numbered(path: Path, n: int) -> Path:
    """Records of eight letters that spell their numbers in base 4."""
    texts = ("".join("ACGT"[i // 4**place % 4] for place in range(8)) for i in range(n))
    return fasta(path, *texts)


def test_records_are_cut_into_pieces_and_everything_left_out_is_counted(tmp_path: Path) -> None:
    many_n = "A" * 18 + "NN"  # a tenth
    path = fasta(
        tmp_path / "a.fa", "acgtr" + "C" * 20, "A" * 19, "G" * 20 + many_n + "T" * 20 + "AC"
    )
    found, cutting = read_sequence_set(path, 20, at_most=100, seed=0)
    assert list(found) == ["ACGTN" + "C" * 15, "G" * 20, "T" * 20]
    assert cutting == (3, 1, 4, 1, 3)
    assert len(found) == 3 and found[1] == "G" * 20 and list(found[1:]) == list(found)[1:]
    assert found.records.tolist() == [0, 2, 2] and found.starts.tolist() == [0, 0, 40]
    packed = tmp_path / "a.fa.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert list(read_sequence_set(packed, 20, at_most=100, seed=0)[0]) == list(found)


def test_of_too_many_pieces_each_is_as_likely_to_be_kept(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.fa", 40)
    counts: Counter[str] = Counter()
    for seed in range(300):
        found, cutting = read_sequence_set(path, 8, at_most=10, seed=seed)
        assert len(set(found)) == 10 and cutting.kept == 10 and cutting.pieces == 40
        assert np.all(np.diff(found.units) > 0)  # in the order of the file
        counts.update(found)
    # Binomial(300, 1/4): mean 75, s.d. 7.5; 4.3 s.d. are passed by one of 40 in 1,500 runs
    assert len(counts) == 40 and all(42 < count < 108 for count in counts.values())
    again = read_sequence_set(path, 8, at_most=10, seed=3)[0]
    assert list(again) == list(read_sequence_set(path, 8, at_most=10, seed=3)[0])


def test_room_is_made_for_the_pieces_there_are(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.fa", 3000)
    every, cutting = read_sequence_set(path, 8, at_most=10**12, seed=0)
    assert len(every) == cutting.kept == 3000 and len(set(every)) == 3000
    assert every.records.tolist() == list(range(3000))
    assert np.array_equal(
        read_sequence_set(path, 8, at_most=3000, seed=0)[0].letters, every.letters
    )
    some = read_sequence_set(path, 8, at_most=2500, seed=0)[0]
    assert len(set(some)) == 2500 and set(some) < set(every)


def test_a_long_record_is_cut_and_drawn_from_as_many_short_ones_are(tmp_path: Path) -> None:
    text = random_dna(8 * 300)
    pieces = [text[i : i + 8] for i in range(0, len(text), 8)]
    long, short = fasta(tmp_path / "a.fa", text), fasta(tmp_path / "b.fa", *pieces)
    found = [list(read_sequence_set(path, 8, at_most=50, seed=1)[0]) for path in (long, short)]
    assert found[0] == found[1]


def test_units_are_records_or_stretches_of_long_ones(tmp_path: Path) -> None:
    short = [random_dna(10, i) for i in range(40)]
    found, _ = read_sequence_set(fasta(tmp_path / "a.fa", *short), 10, at_most=99, seed=0)
    assert found.units.tolist() == list(range(40))
    # one record of 60 pieces among 40: at most a twentieth of 100 each
    found, _ = read_sequence_set(
        fasta(tmp_path / "b.fa", *short[:20], random_dna(600), *short[20:]),
        *(10,),
        at_most=999,
        seed=0,
    )
    assert np.bincount(found.units).tolist() == [1] * 20 + [5] * 12 + [1] * 20
    alone, _ = read_sequence_set(
        fasta(tmp_path / "c.fa", random_dna(1000)), 10, at_most=999, seed=0
    )
    assert np.bincount(alone.units).max() == 5 and alone.units.max() == 19


def test_halves_have_no_unit_in_common(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(10, 200, 30)
    path = fasta(tmp_path / "a.fa", *(random_dna(n, n) for n in lengths))
    whole, _ = read_sequence_set(path, 10, at_most=9999, seed=0)
    one, other = whole.halves(0)
    assert not set(one.units) & set(other.units)
    assert sorted([*one, *other]) == sorted(whole)
    assert abs(len(one) - len(other)) < len(whole) / 5
    assert set(whole.halves(1)[0].units) != set(one.units)


def test_a_set_of_one_has_no_halves() -> None:
    zero = np.zeros(1, np.int64)
    alone = SequenceSet(np.full((1, 4), ord("A"), np.uint8), zero, zero, zero)
    with pytest.raises(UserError, match="1 sequence has no two halves"):
        alone.halves(0)


def test_the_most_common_length_is_found(tmp_path: Path) -> None:
    assert most_common_length(fasta(tmp_path / "a.fa", *("A" * n for n in (3, 5, 5, 9)))) == 5
    assert most_common_length(fasta(tmp_path / "b.fa", *("A" * n for n in (9, 3, 5)))) == 9


def test_a_file_without_a_piece_is_refused(tmp_path: Path) -> None:
    path = fasta(tmp_path / "a.fa", "ACGT", "N" * 30)
    with pytest.raises(UserError, match=r"no piece of 20 bases .* \(longest of 2 records: 30"):
        read_sequence_set(path, 20, at_most=9, seed=0)
