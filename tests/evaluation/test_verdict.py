"""Which figures tell a set from the reference, and how sure that is."""

from typing import Any

import pytest

from genodiff.evaluation.verdict import findings, verdict


def results(**sections: Any) -> dict[str, Any]:
    return {
        "sets": {"samples": {}, "reference": {}},
        **{name: {"sets": {"samples": row}} for name, row in sections.items()},
    }


def difference(p_value: float) -> dict[str, Any]:
    return {"value": 0.1, "confidence_95": [0.0, 0.2], "p_value": p_value}


def test_p_values_are_corrected_for_all_figures_of_a_set() -> None:
    rows = {f"rho_{i}": difference(p) for i, p in enumerate((0.004, 0.02, 0.04, *[0.9] * 7))}
    found = verdict(results(composition={"differences": rows}))["samples"]
    assert (found["figures"], found["told_by"]) == (10, 1)
    # Holm: 10 x 0.004, 9 x 0.02, 8 x 0.04
    corrected = [row["p_corrected"] for row in found["findings"][:3]]
    assert corrected == pytest.approx([0.04, 0.18, 0.32])
    assert found["text"] == "distinguishable from the reference by 1 of 10 figures."


def test_what_is_not_told_is_not_called_the_same() -> None:
    found = verdict(results(composition={"differences": {"gc": difference(0.5)}}))["samples"]
    assert found["text"] == "not distinguishable from the reference by any of 1 figures."
    assert verdict(results())["samples"]["text"] == "too few for any figure."


def test_many_motifs_are_one_test() -> None:
    rows = [
        {"q_value": q, "log2_ratio": ratio, "log2_ratio_95": [0.0, 2.0]}
        for q, ratio in ((0.5, 0.1), (0.03, 1.5), (0.8, 0.2))
    ]
    found = list(findings(results(motifs={"contents": rows, "spacings": []}), "samples"))
    assert [(each.name, each.value, each.p_value) for each in found] == [
        ("motif content", 1.5, 0.03)
    ]


@pytest.mark.parametrize(("auroc", "p_value"), [(0.5, 0.5), (0.58, 0.0227501), (0.42, 0.9772499)])
def test_a_classifier_is_tested_on_one_side(auroc: float, p_value: float) -> None:
    row = {"auroc": auroc, "standard_error": 0.04, "confidence_95": [0.0, 1.0]}
    (found,) = findings(results(classifier={"kmers": row}), "samples")
    assert found.p_value == pytest.approx(p_value, rel=1e-4)  # Phi of 0, -2, 2


def test_copies_are_counted_beside_those_of_real_sequences() -> None:
    def row(share: float, **more: Any) -> dict[str, Any]:
        return {"exact": {"value": share}, "near": {"value": 2 * share}, **more}

    found = results()
    found["memorisation"] = {
        "yardstick": "held_out",
        "sets": {
            "samples": row(0.1, differences={"near": {"value": 0.2, "p_value": 1e-6}}),
            "held_out": row(0.0),
        },
    }
    assert verdict(found)["samples"]["copying"] == (
        "whole copies of training sequences: 10.0 % (0.0 %); near copies: 20.0 % (0.0 %). In "
        "brackets those of real sequences that were not trained with, fewer."
    )
