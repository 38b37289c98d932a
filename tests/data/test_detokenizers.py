import pytest

from genodiff.data import DETOKENIZERS
from genodiff.data.detokenizers import detokenizer_named
from genodiff.errors import UserError

# The published outputs are compared in tests/parity; here is what they do not show.


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("wt", "a /' 5/ b and ( ' 90", "a /'[0-9]/ b and (' 90"),
        ("wt", "( ( a ) )", "(( a) )"),
        ("ptb", "a N N N N N N N b", "a 1 1 1 1 1 1 1 b"),
        ("lm1b", "a (b) \n", "a (b) \n"),
        ("lambada", "\n\n a", "\na"),
        ("scientific_papers", "x @-@ y / z", "x-y/z"),
    ],
)
def test_rules_apply_in_their_order(name: str, text: str, expected: str) -> None:
    assert DETOKENIZERS[name](text) == expected


def test_names() -> None:
    assert set(DETOKENIZERS) == {"wt", "lm1b", "ptb", "lambada", "scientific_papers"}
    assert detokenizer_named(None)(" a , b ") == " a , b "
    with pytest.raises(UserError, match="detokenizer=wikitext is none; there are wt, lm1b, ptb,"):
        detokenizer_named("wikitext")
