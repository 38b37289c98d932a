from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from genodiff.data import SequenceData, fasta_data, pooled_data, text_data
from genodiff.errors import UserError
from tests.data.toys import ids_of, random_sequence, write_bed, write_fasta

LENGTH = 50
GENOMES = {
    name: random_sequence(size, np.random.default_rng(seed))
    for seed, (name, size) in enumerate({"human": 600, "mouse": 400}.items())
}


def part(tmp_path: Path, name: str, length: int = LENGTH, **options: Any) -> SequenceData:
    sequence = GENOMES[name]
    fasta = write_fasta(tmp_path / f"{name}.fa", {"chr1": sequence})
    cut, end = len(sequence) - 200, len(sequence)
    rows = [("chr1", 0, cut, "train")] + [("chr1", cut, end, "test")] * (name == "human")
    bed = write_bed(tmp_path / f"{name}.bed", rows)
    return fasta_data(fasta, bed, length, 4, cache_dir=tmp_path, max_n_fraction=1.0, **options)


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, SequenceData]:
    return {name: part(tmp_path, name) for name in GENOMES}


def test_an_epoch_holds_every_window_of_every_part_once(parts: dict[str, SequenceData]) -> None:
    data = pooled_data(parts, 6, length=LENGTH, labelled=True)
    expected = Counter(
        (label, tuple(ids_of(sequence[start : start + LENGTH])))
        for label, sequence in enumerate(GENOMES.values())
        for start in range(0, len(sequence) - 200, LENGTH)
    )
    seen: Counter = Counter()
    loader = iter(data.train_loader())
    for _ in range(2):  # 12 windows
        batch = next(loader)
        assert batch.labels is not None
        seen.update(
            (int(label), tuple(row.tolist()))
            for label, row in zip(batch.labels, batch.tokens, strict=True)
        )
    assert seen == expected


def test_batches_mix_the_parts_and_follow_their_keys(parts: dict[str, SequenceData]) -> None:
    pool = pooled_data(parts, 6, length=LENGTH, labelled=True).dataset("train")
    keys = np.array([[0, 9], [0, 0], [3, 11], [0, 1]])
    batch = pool.collate(pool.__getitems__(keys))
    own = [("mouse", 1), ("human", 0), ("mouse", 3), ("human", 1)]
    for row, (name, index) in zip(batch.tokens, own, strict=True):
        here = GENOMES[name][index * LENGTH : (index + 1) * LENGTH]
        assert np.array_equal(row, ids_of(here))
    places = [f"{i * LENGTH}-{(i + 1) * LENGTH}(+)" for _, i in own]
    numbers = [list(GENOMES).index(name) for name, _ in own]
    located = [f"part {n}, chr1:{place}" for n, place in zip(numbers, places, strict=True)]
    assert pool.locate(keys) == located
    assert batch.labels is not None and batch.labels.tolist() == [1, 0, 1, 0]
    alone = pooled_data(parts, 6, length=LENGTH).dataset("train")
    assert alone.collate(alone.__getitems__(keys)).labels is None


def test_a_part_may_lack_a_split_and_clusters_stay_apart(parts: dict[str, SequenceData]) -> None:
    data = pooled_data(parts, 6, length=LENGTH, labelled=True)
    (batch,) = data.eval_loader("test")
    assert len(batch.tokens) == 4 and batch.labels is not None and not batch.labels.any()
    ids = data.cluster_ids("train")
    assert set(ids[:8]) & set(ids[8:]) == set()
    with pytest.raises(UserError, match="there is no valid data; no part has any; add some"):
        data.dataset("valid")


def test_evaluation_sees_no_augmentation(tmp_path: Path) -> None:
    parts = {name: part(tmp_path, name, reverse_complement=True, jitter=20) for name in GENOMES}
    data = pooled_data(parts, 6, length=LENGTH)
    tokens = torch.cat([batch.tokens for batch in data.eval_loader("train")])
    expected = [ids_of(GENOMES["human"][:400]), ids_of(GENOMES["mouse"][:200])]
    assert np.array_equal(tokens.flatten(), np.concatenate(expected))


def test_parts_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    human = part(tmp_path, "human")
    with pytest.raises(UserError, match=r"parts=\{\} is empty; give at least one"):
        pooled_data({}, length=LENGTH)
    with pytest.raises(UserError, match=r"parts\.human has sequences of 50 tokens, not length=64"):
        pooled_data({"human": human}, length=64)
    text = tmp_path / "text.txt"
    text.write_text("words " * 100)
    words = text_data(text, None, length=LENGTH, cache_dir=tmp_path)
    with pytest.raises(
        UserError, match=r"parts\.text has another tokenizer; train a model for each"
    ):
        pooled_data({"human": human, "text": words}, length=LENGTH)
