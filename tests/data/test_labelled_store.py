"""A task in one file: back as it was, found damaged, made anew, and fast."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genodiff.data import ClassificationTask, DnaTokenizer, LabelledSequences, Region
from genodiff.data.labelled_store import kept, read_task, write_task
from genodiff.errors import UserError

DNA = DnaTokenizer()


def sequences(*texts: str, regions: list[Region] | None = None) -> LabelledSequences:
    rows = [DNA.encode(text) for text in texts]
    return LabelledSequences.of(rows, [i % 2 for i in range(len(rows))], regions)


REGIONS = [Region("chrX", 5, 8, "17", "-"), Region("ä 1", 0, 10**10, "", "+")]
TASK = ClassificationTask(
    "toy",
    ("negative", "positive"),
    sequences("ACG", "N" * 7, regions=REGIONS),
    sequences("T", "CR", "A"),
    sequences("GG", "A"),
    DNA,
    {"read_from": "nowhere", "unknown": {"letters": 1}},
)


def assert_same(one: LabelledSequences | None, other: LabelledSequences | None) -> None:
    assert one is not None and other is not None
    assert np.array_equal(one.ids, other.ids) and one.ids.dtype == other.ids.dtype
    assert np.array_equal(one.starts, other.starts)
    assert np.array_equal(one.labels, other.labels)
    assert one.regions == other.regions


def test_a_task_comes_back_as_it_was(tmp_path: Path) -> None:
    digest = write_task(tmp_path / "toy.task", TASK, {"zip": [1, 2]})
    back, stamp = read_task(tmp_path / "toy.task", DNA)
    assert stamp == {"zip": [1, 2]}
    assert (back.name, back.classes) == (TASK.name, TASK.classes)
    assert back.source == {**TASK.source, "sha256": digest}
    for split in ("train", "test", "valid"):
        assert_same(getattr(back, split), getattr(TASK, split))
    assert [path.name for path in tmp_path.iterdir()] == ["toy.task"]
    write_task(tmp_path / "two.task", TASK._replace(valid=None), {})
    assert read_task(tmp_path / "two.task", DNA)[0].valid is None


def test_any_changed_byte_and_any_cut_is_found(tmp_path: Path) -> None:
    path = tmp_path / "toy.task"
    write_task(path, TASK, {})
    whole = path.read_bytes()
    places = [*range(0, len(whole), 101), len(whole) - 1]
    for at in places:
        for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(content)
            with pytest.raises(UserError, match=r"toy.task is damaged, or was not written by"):
                read_task(path, DNA)
    assert len(places) > 20


def never() -> ClassificationTask:
    raise AssertionError("the source is read")


def test_the_source_is_read_once_until_its_stamp_changes(tmp_path: Path) -> None:
    path = tmp_path / "made" / "toy.task"
    first = kept(path, DNA, {"state": 1}, lambda: TASK)
    again = kept(path, DNA, {"state": 1}, never)
    assert_same(again.train, TASK.train)
    assert first.source == again.source and len(first.source["sha256"]) == 64
    other = TASK._replace(classes=("a", "b"))
    assert kept(path, DNA, {"state": 2}, lambda: other).classes == ("a", "b")
    assert kept(path, DNA, {"state": 2}, never).classes == ("a", "b")
    assert kept(path, DNA, None, never).classes == ("a", "b")  # without its source


def test_a_damaged_file_is_made_anew_where_there_is_a_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "toy.task"
    kept(path, DNA, {}, lambda: TASK)
    damaged = path.read_bytes()[:-9]
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="is damaged") as refusal:
        kept(path, DNA, None, never)
    assert "\n" not in str(refusal.value) and path.read_bytes() == damaged
    with caplog.at_level(logging.WARNING):
        assert_same(kept(path, DNA, {}, lambda: TASK).test, TASK.test)
    assert "It is made anew from its source" in caplog.text
    assert_same(read_task(path, DNA)[0].test, TASK.test)


def test_a_folder_that_cannot_be_written_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    task = kept(tmp_path / "file" / "toy.task", DNA, {}, lambda: TASK)
    assert task is TASK
    assert "cannot be written" in caplog.text and "data.cache_dir=" in caplog.text


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "toy.task").mkdir()
    with pytest.raises(UserError, match=r"cannot be read .Is a directory"):
        read_task(tmp_path / "toy.task", DNA)


@pytest.mark.slow
def test_289_061_sequences_are_opened_in_well_under_a_second(tmp_path: Path) -> None:
    """As many, and as long, as those of the largest task; by processor time, of 3 tries."""
    n = 289_061
    starts = np.arange(n + 1) * 430
    many = LabelledSequences(
        np.resize(np.arange(7, 11, dtype=np.uint8), n * 430), starts, np.arange(n) % 3
    )
    large = TASK._replace(train=many, valid=None)
    write_task(tmp_path / "large.task", large, {})

    def seconds(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    assert os.path.getsize(tmp_path / "large.task") > 1.2e8
    assert min(seconds(lambda: read_task(tmp_path / "large.task", DNA)) for _ in range(3)) < 1
