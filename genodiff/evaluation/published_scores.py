"""Scores on Genomic Benchmarks and GLUE as published, to stand beside ours.

By paper, model and column of a table of scores: the mean over five seeds and the difference of the
largest and the smallest, which the papers print behind the "±" of accuracies on Genomic
Benchmarks; of GLUE the mean alone.
"""

from collections.abc import Mapping

_TASKS = (
    "dummy_mouse_enhancers_ensembl",
    "demo_coding_vs_intergenomic_seqs",
    "demo_human_or_worm",
    "human_enhancers_cohn",
    "human_enhancers_ensembl",
    "human_ensembl_regulatory",
    "human_ocr_ensembl",
    "human_nontata_promoters",
)


def _row(text: str) -> Mapping[str, tuple[float, float]]:
    """Thousandths, "mean±range" for each task."""
    pairs = [tuple(int(part) / 1000 for part in cell.split("±")) for cell in text.split()]
    return {task: (mean, extent) for task, (mean, extent) in zip(_TASKS, pairs, strict=True)}


# Schiff et al. 2024 (arXiv:2403.03234), table 1.
_CADUCEUS = {
    "CNN": _row("715±87 892±8 942±2 702±21 744±122 872±5 698±13 861±9"),
    "HyenaDNA": _row("780±25 904±5 964±2 729±14 849±6 869±12 783±7 944±2"),
    "Mamba": _row("743±54 904±4 967±2 732±29 862±8 814±211 815±2 933±7"),
    "Caduceus w/o equivariance": _row("770±58 908±3 970±3 741±8 883±2 871±7 818±3 933±6"),
    "Caduceus-Ph": _row("754±74 915±3 973±1 747±4 893±8 872±11 828±6 946±7"),
    "Caduceus-PS": _row("793±58 910±3 968±2 745±7 900±6 873±7 818±6 945±10"),
}
# Sahoo et al. 2024 (arXiv:2406.07524), table 7.
_MDLM = {
    "AR Mamba": _row("763±8 897±4 967±2 734±27 856±3 861±8 806±5 926±8"),
    "Caduceus MLM": _row("810±16 913±3 970±2 737±1 907±0 874±3 821±0 935±14"),
    "Plaid": _row("745±79 908±3 971±1 743±10 885±3 868±10 820±4 935±7"),
    "SEDD": _row("784±58 913±5 970±3 746±15 905±6 828±37 816±8 935±14"),
    "MDLM": _row("795±29 913±3 970±3 743±16 899±4 868±4 823±8 940±7"),
}

_GLUE_COLUMNS = (
    *("mnli, matched", "mnli, mismatched", "qqp, accuracy", "qnli", "sst2", "cola, matthews"),
    *("stsb, pearson", "mrpc, accuracy", "rte"),
)


def _glue_row(text: str) -> Mapping[str, tuple[float, None]]:
    """Hundredths of a percent, for each column."""
    cells = zip(_GLUE_COLUMNS, text.split(), strict=True)
    return {column: (int(cell) / 10_000, None) for column, cell in cells}


# Sahoo et al. 2024 (arXiv:2406.07524), table 4.
_MDLM_GLUE = {
    "AR": _glue_row("8094 8078 8698 8616 9014 3343 8432 8388 4729"),
    "BERT": _glue_row("8443 8535 8841 9046 9220 5481 8841 8916 6137"),
    "BERT, MDLM fine-tuned": _glue_row("8476 8507 8849 9030 9220 5769 8748 9053 6209"),
}

PUBLISHED: Mapping[str, Mapping[str, Mapping[str, tuple[float, float | None]]]] = {
    "Caduceus, table 1": _CADUCEUS,
    "MDLM, table 7": _MDLM,
    "MDLM, table 4": _MDLM_GLUE,
}
NOTES: Mapping[str, str] = {
    "MDLM, table 4": "its metrics are not named there, and stand in the first column of each "
    "task; its network is MosaicBERT. Test items of GLUE are its development sets, as the labels "
    "of its test sets are not public.",
}
"""What has to be said of published rows."""
