"""A web server on the loopback interface that does all that web servers do."""

import contextlib
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[["Handler"], None]


class Site:
    """What is on the server, how it answers the next requests, and what it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.headers: dict[str, str] = {}
        self.answers: list[Answer] = []
        self.default: Answer = whole_or_range
        self.asked: list[dict[str, str]] = []
        self.closing = threading.Event()
        site = self

        class Bound(Handler):
            pass

        Bound.site = site
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self.host = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'

    @property
    def ranges(self) -> list[str | None]:
        return [asked.get("Range") for asked in self.asked]


class Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        site = self.site
        site.asked.append({**dict(self.headers), "path": self.path})
        answer = site.answers.pop(0) if site.answers else site.default
        with contextlib.suppress(ConnectionError):
            answer(self)
        self.close_connection = True

    def start(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in {"ETag": self.site.etag, **self.site.headers, **headers}.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def whole(handler: Handler) -> None:
    handler.start(200, len(handler.site.content))
    handler.wfile.write(handler.site.content)


def whole_or_range(handler: Handler) -> None:
    """What a good server does."""
    content, etag = handler.site.content, handler.site.etag
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if not wanted or handler.headers.get("If-Range", etag) != etag:
        return whole(handler)
    begin = int(wanted[1])
    if begin >= len(content):
        return handler.start(416, 0, Content_Range=f"bytes */{len(content)}")
    span = f"bytes {begin}-{len(content) - 1}/{len(content)}"
    handler.start(206, len(content) - begin, Content_Range=span)
    handler.wfile.write(content[begin:])


def cut(n_bytes: int, then: Callable[[Handler], None] = lambda handler: None) -> Answer:
    """Announces everything that was asked for and sends up to `n_bytes` of it."""

    def answer(handler: Handler) -> None:
        write, left = handler.wfile.write, n_bytes

        class Short:
            def write(self, data: bytes) -> int:
                nonlocal left
                if data.startswith(b"HTTP/"):
                    return write(data)
                sent, left = data[:left], left - len(data[:left])
                return write(sent)

            def __getattr__(self, name: str) -> Any:
                return getattr(handler_file, name)

        handler_file = handler.wfile
        handler.wfile = Short()  # type: ignore[assignment]
        whole_or_range(handler)
        handler.wfile = handler_file
        handler_file.flush()
        then(handler)

    return answer


def stall(handler: Handler) -> None:
    handler.site.closing.wait(30)


def reset(handler: Handler) -> None:
    time.sleep(0.05)  # what was sent arrives first
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.connection.close()


def status(code: int) -> Answer:
    def answer(handler: Handler) -> None:
        handler.start(code, 0)

    return answer


def flipped(handler: Handler) -> None:
    """One wrong byte."""
    good = handler.site.content
    handler.start(200, len(good))
    handler.wfile.write(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])


def chunked(n_chunks: int | None = None) -> Answer:
    """No length, but chunks; `n_chunks` of them, then nothing."""

    def answer(handler: Handler) -> None:
        content = handler.site.content
        chunks = [content[i : i + 50_000] for i in range(0, len(content), 50_000)] + [b""]
        handler.start(200, None, Transfer_Encoding="chunked")
        for chunk in chunks[:n_chunks]:
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")

    return answer


def unannounced(handler: Handler) -> None:
    """Neither length nor chunks: the end of the connection is the end of the file."""
    handler.start(200, None, Connection="close")
    handler.wfile.write(handler.site.content)


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[Site]:
    """A site whose every path has `content`."""
    site = Site(content)
    site.server.daemon_threads = True
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.closing.set()
    site.server.shutdown()
    site.server.server_close()
    thread.join()
