"""The page and the picture of scores, made of results alone."""

import re
import sys
from html import escape, unescape
from typing import Any

import numpy as np
import pytest

from genodiff.errors import UserError
from genodiff.evaluation.published_scores import PUBLISHED
from genodiff.evaluation.score_table import score_page, score_picture, score_report
from genodiff.evaluation.scores import Figure, Run, score_results

SPLIT: dict[str, Any] = {
    "sequences": 40,
    "of_each_class": {"no": 20, "yes": 20},
    "shortest": 9,
    "median": 10.0,
    "longest": 12,
    "cut": 3,
}
NONE = {"any_class": 0, "same_class": 0, "other_class": 0}
COPIES = {"exact": NONE, "reverse_complement": NONE, "near": NONE}
LEAKAGE = {
    "length": 11,
    "splits": {"train": SPLIT, "test": SPLIT},
    "test_copies_of_train": COPIES,
    "train_copies_of_train": COPIES,
    "intervals": None,
    "test_unseen": 30,
}


def result(task: str, model: str, right: float, *, unseen: int = 30) -> dict[str, Any]:
    random = np.random.default_rng(0)
    labels = np.ones(40, bool)
    runs = [Run(i, i + 1, 36, np.arange(40), random.random(40) < right, labels) for i in range(5)]
    return score_results(
        *(task, model, "paper", runs),
        unseen=np.arange(40) < unseen,
        baselines={"majority": np.arange(40) % 2 == 0, "kmer_logistic": None},
        leakage=LEAKAGE,
    )


RESULTS = [
    result("human_nontata_promoters", "ours", 0.9),
    result("human_nontata_promoters", "from scratch", 0.8),
    result("tf_0", "ours", 0.7, unseen=0),
]


def test_the_page_sets_ours_beside_the_published() -> None:
    page = score_page(RESULTS, tests=["ours - from scratch: +0.1"])
    rows = {
        cells[0].strip(): [cell.strip() for cell in cells[1:]]
        for cells in (line.strip("|").split("|") for line in page.splitlines() if "|" in line)
    }
    assert rows[""] == ["human_nontata_promoters", "tf_0"]
    whole, part = RESULTS[0], RESULTS[0]["deduplicated"]
    assert rows["**ours**"][0] == f"{whole['mean']:.3f} ± {whole['max_minus_min']:.3f}"
    assert rows["ours, unseen items"][0] == f"{part['mean']:.3f} ± {part['max_minus_min']:.3f}"
    assert rows["ours, unseen items"][1] == "-" and rows["**from scratch**"][1] == "-"
    assert rows["majority class"] == ["0.500 (0.352 to 0.648)"] * 2  # Wilson, 20 of 40
    assert not {"length alone", "k-mer logistic regression"} & rows.keys()
    assert rows["*Caduceus-Ph* (Caduceus, table 1)"] == ["0.946 ± 0.007", "-"]
    assert rows["*MDLM* (MDLM, table 7)"] == ["0.940 ± 0.007", "-"]
    assert rows["test items"] == ["40", "40"] and rows["of them unseen"] == ["30", "0"]
    assert rows["protocol"][0] == "paper, 5 runs, seeds 1, 2, 3, 4, 5"
    assert "- ours - from scratch: +0.1\n" in page
    assert page.count("- without a copy in train: 30 of 40 test items (75.0 %)") == 2


def test_published_rows_are_of_eight_tasks() -> None:
    papers = ("Caduceus, table 1", "MDLM, table 7")
    rows = [scores for paper in papers for scores in PUBLISHED[paper].values()]
    assert len(rows) == 11 and all(scores.keys() == rows[0].keys() for scores in rows)
    assert len(rows[0]) == 8
    # of the tables: the worst spread, and a mean of three digits
    assert PUBLISHED["Caduceus, table 1"]["Mamba"]["human_ensembl_regulatory"] == (0.814, 0.211)
    assert PUBLISHED["MDLM, table 7"]["Caduceus MLM"]["human_enhancers_ensembl"] == (0.907, 0.0)


def test_the_rows_of_glue_have_the_averages_that_the_paper_prints() -> None:
    rows = PUBLISHED["MDLM, table 4"]
    means = {name: np.mean([score for score, _ in row.values()]) for name, row in rows.items()}
    printed = {"AR": 0.7488, "BERT": 0.8162, "BERT, MDLM fine-tuned": 0.8206}
    # to a hundredth of a percent, and 82.068 is printed as 82.06
    assert means == pytest.approx(printed, abs=8e-5)
    assert all(len(row) == 9 for row in rows.values())


def glue(task: str, figures: list[Figure], *, numbers: bool = False) -> dict[str, Any]:
    random = np.random.default_rng(0)
    labels = random.random(40) if numbers else random.integers(0, 2, 40)
    told = labels + random.random(40) if numbers else np.where(random.random(40) < 0.8, labels, 0)
    baseline = np.zeros(40) if numbers else np.zeros(40, np.int64)
    return score_results(
        *(task, "ours", "paper", [Run(1, 1, 36, np.arange(40), told, labels)]),
        unseen=np.arange(40) < 30,
        baselines={"mean" if numbers else "majority": baseline},
        leakage=LEAKAGE,
        figures=figures,
    )


def test_every_figure_of_a_task_is_a_column_beside_the_published() -> None:
    halves = np.arange(40) < 20
    results = [
        glue("cola", [Figure("matthews", "matthews"), Figure("accuracy", "accuracy")]),
        glue("sst2", [Figure("accuracy", "accuracy")]),
        glue("stsb", [Figure(name, name) for name in ("pearson", "spearman")], numbers=True),
        glue(
            "mnli",
            [
                Figure("matched", "accuracy", halves),
                Figure("mismatched", "accuracy", ~halves),
            ],
        ),
    ]
    page = score_page(results)
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if "|" in line
    ]
    assert table[0][1:] == [
        *("cola, matthews", "cola, accuracy", "sst2", "stsb, pearson", "stsb, spearman"),
        *("mnli, matched", "mnli, mismatched"),
    ]
    rows = {cells[0]: cells[1:] for cells in table}
    assert rows["**ours**"][1] == f"{results[0]['also']['accuracy']['mean']:.3f} ± 0.000"
    assert rows["*BERT* (MDLM, table 4)"] == [
        *("0.548", "-", "0.922", "0.884", "-", "0.844", "0.854"),
    ]
    assert rows["test items"] == ["40", "40", "40", "40", "40", "20", "20"]
    assert rows["majority class"][0].startswith("0.000 (") and rows["majority class"][3] == "-"
    assert rows["mean of training"][3].startswith("0.000 (0.000 to 0.000)")
    assert "MDLM, table 4: its metrics are not named there" in page
    assert "MDLM, table 4" not in score_page(RESULTS)
    assert score_picture(results).decode().count(">mnli, ") == 2


def test_results_of_before_there_were_other_figures_are_shown() -> None:
    old = {
        key: value for key, value in RESULTS[0].items() if key not in ("figure", "metric", "also")
    }
    assert score_page([old]) == score_page(RESULTS[:1])


@pytest.mark.parametrize("picture", ["svg", "png"])
def test_the_picture_shows_every_task_and_model(picture: Any) -> None:
    contents = score_picture(RESULTS, picture=picture)
    if picture == "png":
        assert contents.startswith(b"\x89PNG")
        return
    text = contents.decode()
    for name in ("human_nontata_promoters", "tf_0", "ours", "from scratch", "majority class"):
        assert f">{name}<" in text
    assert "length alone" not in text


def test_the_html_page_has_what_the_others_have() -> None:
    tests = ["ours - from scratch: +0.1"]
    page = score_report(RESULTS, tests=tests, footer="genodiff 0").html()
    markdown = score_page(RESULTS, tests=tests)
    cells = {
        cell.strip().replace("*", "")
        for line in markdown.splitlines()
        if line.startswith("| ")
        for cell in line.strip("|").split("|")
    }
    assert len(cells) > 30
    found = re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", page)
    texts = {unescape(re.sub("<[^>]*>", "", text)) for text in found}
    assert cells <= texts
    for line in (line[2:] for line in markdown.splitlines() if line.startswith("- ")):
        assert f"<li>{escape(line)}</li>" in page
    assert page.count("<svg") == 1 and "Scores of ours, from scratch" in page


def test_what_cannot_be_shown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no results to show"):
        score_page([])
    with pytest.raises(UserError, match="two results of ours on tf_0"):
        score_page([RESULTS[2], RESULTS[2]])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match="matplotlib is not installed"):
        score_picture(RESULTS)
