"""The text of a FASTA in blocks, inflated and translated by threads ahead of whoever reads them.

The file is read by one thread, from front to end; a pool does what costs time, on several blocks
at once; and the blocks come out in order. So neither they nor the first error depend on the number
of threads. What is gained: bgzip is inflated without Python's lock, on as many cores as there are,
and the rest is done beside the reading, hashing and writing of the caller. Translation holds the
lock and bounds the speed, at about 1 second for 1 Gb. Processes would not be bound by it, but
cannot be started wherever a genome may be opened: in the worker of a pool, or in a script without
a main guard.
"""

import gzip
import os
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import BufferedIOBase
from typing import NoReturn

from genodiff.data.compression import HEADER_BYTES, Compression, compression_of
from genodiff.data.fasta import TextBlock, translate

BLOCK_BYTES = 1 << 20
BGZIP_BYTES = 1 << 18
_LARGEST_TEXT = 1 << 16
_MOST_THREADS = 8  # with more, bgzip too is bound by translation

_Task = Callable[[], list[TextBlock]]


def usable_threads() -> int:
    """As many as there are cores that this process may use, up to 8."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def text_blocks(
    source: BufferedIOBase, compression: Compression, threads: int
) -> Generator[TextBlock, None, None]:
    """The text of `source` until its end.

    Raises EOFError, `zlib.error` or `gzip.BadGzipFile` for compressed data that are cut or wrong,
    after all blocks before. To be closed if it is not exhausted: it has threads.
    """
    if compression == "bgzip":
        tasks = _bgzip(source)
    elif compression == "gzip":
        tasks = _texts(gzip.GzipFile(fileobj=source, mode="rb"))
    else:
        tasks = _texts(source)
    ahead: deque[Future[list[TextBlock]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for task in _failing_in_turn(tasks):
            ahead.append(pool.submit(task))
            if len(ahead) > 2 * threads:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _texts(source: BufferedIOBase) -> Iterator[_Task]:
    while text := source.read(BLOCK_BYTES):
        yield partial(_translated, text)


def _translated(text: bytes) -> list[TextBlock]:
    return [translate(text)]


def _bgzip(source: BufferedIOBase) -> Iterator[_Task]:
    """Tasks of several whole blocks each."""
    held, is_end = b"", False
    while not is_end:
        more = source.read(BGZIP_BYTES)
        held, is_end = held + more, not more
        begin, blocks = 0, []
        while (end := _end_of_block(held, begin)) <= len(held):
            blocks.append(held[begin:end])
            begin = end
        yield partial(_inflated, blocks)
        held = held[begin:]
    if held:
        raise EOFError("the last block is incomplete")


def _end_of_block(held: bytes, begin: int) -> int:
    """Where the block that begins there ends, or would, as far as can be told."""
    header = held[begin : begin + HEADER_BYTES]
    if len(header) < HEADER_BYTES:
        return begin + HEADER_BYTES
    if compression_of(header) != "bgzip":
        raise gzip.BadGzipFile("bgzip at first, something else later")
    return begin + int.from_bytes(header[16:18], "little") + 1


def _inflated(blocks: list[bytes]) -> list[TextBlock]:
    # One at a time, so that translation holds the lock for moments.
    return [translate(zlib.decompress(block, 31, _LARGEST_TEXT)) for block in blocks]


def _failing_in_turn(tasks: Iterator[_Task]) -> Iterator[_Task]:
    """The same tasks; what goes wrong in finding the next is the last."""
    try:
        yield from tasks
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        yield partial(_fail, error)


def _fail(error: Exception) -> NoReturn:
    raise error
