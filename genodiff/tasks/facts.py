"""What is known of a classification task without any network, beside every score of it."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from genodiff.data import ClassificationTask
from genodiff.data.interval_matches import interval_matches
from genodiff.data.labelled import frame_length, texts_of
from genodiff.data.near_duplicates import matches, matches_within
from genodiff.evaluation import (
    Audit,
    audit_task,
    kmer_logistic,
    length_only,
    majority,
    word_logistic,
)
from genodiff.tasks.cross_validation import Fold, Protocol


class Facts(NamedTuple):
    """What is known of a task without any network; arrays are of the items that folds test."""

    audit: Audit
    unseen: Bool[np.ndarray, "n"]
    baselines: dict[str, Shaped[np.ndarray, "n"] | None]


def facts_of(
    task: ClassificationTask, folds: Sequence[Fold], protocol: Protocol, length: int, words: bool
) -> Facts:
    """The audit, and what baselines tell of the items that folds test. `length`: tokens of a row;
    `words`: whether a logistic regression on words is among them."""
    length -= frame_length(task.tokenizer)
    is_dna = hasattr(task.tokenizer, "complement")
    audited = audit_task(
        task.train,
        task.test,
        task.valid,
        classes=task.classes,
        copies=matches(task.train, task.test, task.tokenizer),
        train_copies=matches_within(task.train, task.tokenizer),
        intervals=interval_matches(task.train, task.test),
        length=length,
        has_strands=is_dna,
    )
    n = 1 + max(int(fold.items.max()) for fold in folds)
    # Folds keep near copies together: what one tests, it has not trained with.
    unseen = audited.unseen if protocol == "paper" else np.ones(n, bool)
    of_classes = bool(task.classes)
    by_words = f"{'kmer' if is_dna else 'word'}_{'logistic' if of_classes else 'ridge'}"
    told: dict[str, Shaped[np.ndarray, n]] = {}
    for fold in folds if protocol == "kfold" else folds[:1]:  # the test set is one and the same
        train, valid, test = fold.split
        found = {
            "majority" if of_classes else "mean": majority(train, test),
            "length_only": length_only(train, test, length=length),
        }
        if words and is_dna:
            bases = task.tokenizer.data_ids[:4]
            found[by_words] = kmer_logistic(train, valid, test, data_ids=bases)
        elif words:
            found[by_words] = word_logistic(train, valid, test, texts=_texts(task))
        for name, labels in found.items():
            told.setdefault(name, np.zeros(n, labels.dtype))[fold.items] = labels
    return Facts(audited, unseen, {"kmer_logistic": None, **told})


def _texts(task: ClassificationTask) -> Callable[[np.ndarray], list[str]]:
    """The texts of a row of ids."""
    return lambda ids: [*map(task.tokenizer.decode, texts_of(ids, task.tokenizer))]
