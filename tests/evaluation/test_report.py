import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from genodiff.errors import UserError
from genodiff.evaluation.report import (
    Block,
    Fact,
    Facts,
    Figure,
    InfilledStretch,
    Lines,
    Paragraph,
    Report,
    Section,
    SequencePreview,
    Table,
)

HOSTILE = "<script>alert('x')</script> & \"quoted\" $1$"


class Balanced(HTMLParser):
    """Fails on a tag that is not closed in its turn."""

    VOID = frozenset({"meta", "br", "use", "path", "image"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def text_of(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html)


EVERY_BLOCK: list[Block] = [
    Paragraph(HOSTILE),
    Lines([HOSTILE]),
    Facts([Fact(HOSTILE, HOSTILE, HOSTILE)]),
    Table([HOSTILE], [[HOSTILE], [1234], [0.123456], [None]], HOSTILE),
    Figure("<svg></svg>", HOSTILE, HOSTILE, Table([HOSTILE], [[HOSTILE]])),
    SequencePreview([(HOSTILE, HOSTILE)]),
    InfilledStretch(HOSTILE, "<A>", HOSTILE, [(HOSTILE, "<C>")]),
]


@pytest.mark.parametrize("block", EVERY_BLOCK, ids=lambda block: type(block).__name__)
def test_text_is_escaped(block: Block) -> None:
    page = Balanced()
    page.feed(block.html())
    assert page.open == []
    assert "script" not in page.seen


def test_a_report_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    report = Report(HOSTILE, [Section(HOSTILE, EVERY_BLOCK)], subtitle=HOSTILE, footer=HOSTILE)
    report.write(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Balanced()
    page.feed(html)
    assert page.open == []
    assert page.seen & {"script", "link", "iframe", "object"} == set()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#|data:)|url\((?!#|data:)|@import""", html)
    assert "default-src 'none'" in html
    assert "@media print" in html
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_report_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file or directory"):
        Report("t", []).write(tmp_path / "missing" / "report.html")


def test_numbers_are_set_right_and_words_left() -> None:
    row = ["word", 12345, 0.123456, None, "3.4 %", "1.2 to 3.4", "order 3"]
    cells = re.findall(r"<td[^>]*>[^<]*", Table(list("abcdefg"), [row]).html())
    right = '<td class="number">'
    assert cells == [
        *("<td>word", f"{right}12,345", f"{right}0.1235", f"{right}-", f"{right}3.4 %"),
        *(f"{right}1.2 to 3.4", "<td>order 3"),
    ]


def test_an_interval_stands_below_its_figure() -> None:
    html = Table(["a", "b"], [["x", "1.2e-05 (0 to 0.3)"], ["y", "41 % (40 to 42)"]]).html()
    assert '<td class="number">1.2e-05 <small>(0 to 0.3)</small></td>' in html
    assert '<td class="number">41 % <small>(40 to 42)</small></td>' in html


def test_the_name_of_a_column_stands_as_its_cells_do() -> None:
    html = Table(["words", "numbers"], [["a", "0.9 ± 0.1"], ["b", "<0.0001"]]).html()
    assert '<td class="number">0.9 ± 0.1</td>' in html
    assert '<th scope="col">words</th><th scope="col" class="number">numbers</th>' in html
    assert '<td class="number">&lt;0.0001</td>' in html


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells under 1 columns"):
        Table(["a"], [[1, 2]])


def test_a_figure_has_words_and_numbers_beside_it() -> None:
    html = Figure("<svg></svg>", "A line that falls.", "Loss.", Table(["step"], [[1]])).html()
    assert 'role="img" aria-label="A line that falls."' in html
    assert html.index("<svg>") < html.index("<table>") < html.index("<figcaption>Loss.")


def test_two_figures_do_not_share_ids() -> None:
    def ids(stroke: str) -> set[str]:
        svg = f'<svg><path id="a" stroke="{stroke}"/><use href="#a" clip-path="url(#a)"/></svg>'
        html = Figure(svg, "").html()
        found = set(re.findall(r'(?:\bid="|href="#|url\(#)([^")]+)', html))
        assert len(found) == 1  # the references follow the id
        return found

    assert ids("red") & ids("blue") == set()


def test_an_infilled_stretch_is_aligned_and_marks_differences_without_colour() -> None:
    html = InfilledStretch(
        "AAAACCCC", "ACGTACGTAC", "GGGG", [("first", "ACGTACGTAC"), ("second", "ACTTACGTAA")], 100
    ).html()
    lines = text_of(html.split("</pre>")[0]).split("\n")
    assert lines[0].split() == ["92"]
    assert lines[1:4] == [
        "truth   AAAACCCCACGTACGTACGGGG",
        "first   AAAACCCCACGTACGTACGGGG",
        "second  AAAACCCCACTTACGTAAGGGG",
    ]
    assert '<span class="other">T</span>' in html
    assert html.count('class="other"') == 2
    assert "text-decoration: underline" in Report("", []).html()
    assert "first: 10 of 10 equal. second: 8 of 10 equal" in html


def test_a_long_stretch_is_wrapped_with_its_coordinates() -> None:
    stretch = InfilledStretch("A" * 50, "C" * 30, "G" * 50, [], 1000, context=5, width=16)
    lines = text_of(stretch.html().split("</pre>")[0]).split("\n")
    assert [line.strip() for line in lines[::3]] == ["995", "1,011", "1,027"]
    assert "".join(line.split()[1] for line in lines[1::3]) == "AAAAA" + "C" * 30 + "GGGGG"


def test_an_infill_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="x has 2 letters for a stretch of 3"):
        InfilledStretch("", "ACG", "", [("x", "AC")])


def test_sequences_are_shown_from_their_beginning() -> None:
    html = SequencePreview([("s", "ACGTACGTACGT" + "N" * 500)], letters=15).html()
    assert "512 letters, the first 15 shown" in html
    assert "ACGTACGTAC GTNNN" in text_of(html)
