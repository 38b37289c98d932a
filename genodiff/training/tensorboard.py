"""`TensorBoard`: curves to look at, beside `metrics.csv`."""

import io
import logging
import os
import socket
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]: built when imported
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]: as above
from tensorboard.summary.writer.record_writer import RecordWriter

from genodiff.files import append_bytes

log = logging.getLogger(__name__)


class TensorBoard(Logger):
    """Appends to a file of events in `folder`, where it is called; a full disk leaves points out.

    TensorBoard's own writer has a thread, which a full disk kills, and the run with the next
    point.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        stamp = f"{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / f"events.out.tfevents.{stamp}"
        self._begun = self._refused = False

    @property
    def name(self) -> str:
        """What Lightning calls the logger."""
        return "tensorboard"

    @property
    def version(self) -> str:
        """One a run."""
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` has them."""

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Adds a point to each curve."""
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in metrics.items()]
        point = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        try:
            if not self._begun:
                self.path.parent.mkdir(exist_ok=True)
                self._append(Event(wall_time=time.time(), file_version="brain.Event:2"))
                self._begun = True
            self._append(point)
            self._refused = False
        except OSError as error:
            if not self._refused:  # once, for as long as it lasts
                log.warning("step %s: %s takes no points (%s).", step, self.path, error.strerror)
            self._refused = True

    def _append(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        append_bytes(self.path, record.getvalue())
