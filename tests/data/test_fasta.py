import io
import logging

import numpy as np
import pytest

from genodiff.data.fasta import SOFT_MASK, FastaRecord, encode_fasta, translate
from genodiff.errors import UserError
from tests.data.toys import fasta_text, ids_of, random_sequence


def encode(text: str | bytes, block_bytes: int = 1 << 20) -> tuple[list[FastaRecord], bytes]:
    sink = io.BytesIO()
    data = text.encode() if isinstance(text, str) else text
    blocks = (translate(data[i : i + block_bytes]) for i in range(0, len(data), block_bytes))
    return encode_fasta(blocks, sink, "toy.fa"), sink.getvalue()


def expected_codes(sequence: str) -> bytes:
    is_lower = np.array([letter.islower() for letter in sequence])
    return (ids_of(sequence) + SOFT_MASK * is_lower).astype(np.uint8).tobytes()


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 64, 1 << 24])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_codes_do_not_depend_on_where_blocks_end(block_bytes: int, end: str) -> None:
    rng = np.random.default_rng(0)
    sequences = {f"chr{i}": random_sequence(n, rng) for i, n in enumerate((1, 59, 60, 61, 200))}
    records, codes = encode(fasta_text(sequences, line_bases=13, end=end), block_bytes)
    assert [(r.name, r.length) for r in records] == [(n, len(s)) for n, s in sequences.items()]
    assert codes == b"".join(expected_codes(s) for s in sequences.values())


def test_lines_may_have_any_length_and_blank_lines_between() -> None:
    records, codes = encode("\n>a x\nACG\n\nTN\nA\n>b\n\nnn\n>c\nG")
    assert [(r.name, r.length) for r in records] == [("a", 6), ("b", 2), ("c", 1)]
    assert codes == expected_codes("ACGTNA" + "nn" + "G")


def test_ambiguity_codes_become_n_and_are_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        _, codes = encode(">a\nARYSWKMBDHVC\n>b\nryswkmbdhv\n")
    assert codes == expected_codes("A" + 10 * "N" + "C" + 10 * "n")
    assert [record.getMessage() for record in caplog.records] == [
        "toy.fa: 20 ambiguity codes (R, Y, ...) are read as N"
    ]


@pytest.mark.parametrize("letter", ["E", "e", "U", "-", "*", " ", "1", "."])
def test_other_letters_are_named_with_record_and_position(letter: str) -> None:
    with pytest.raises(
        UserError, match=rf"record 'b' has '[{letter}]' at base 5 \(counted from 1"
    ):
        encode(f">a\nACG\n>b\nAC\nGT{letter}A\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no sequence"),
        ("\n\n", "holds no sequence"),
        ("ACGT\n", "does not begin with '>'"),
        ("@read\nACGT\n+\nIIII\n", "does not begin with '>'"),
        (">a\n>b\nACGT\n", "record 'a' has no bases"),
        (">a\nACGT\n>b\n", "record 'b' has no bases"),
        (">a", "record 'a' has no bases"),
        (">a\nAC\n>b\nAC\n>a\nAC\n", "record name 'a' comes twice"),
        (">\nACGT\n", "has no name after '>'"),
        ("> a\nACGT\n", "has no name after '>'"),
    ],
)
def test_malformed_files_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        encode(text)
    assert "\n" not in str(caught.value)
