"""Pages in a headless browser: what it shows of them, and that it complains of nothing."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import NamedTuple

import pytest

_BROWSER = shutil.which("chromium")
needs_browser = pytest.mark.skipif(_BROWSER is None, reason="no chromium")
_SCRIPT = (
    "<script>document.title = JSON.stringify({"
    "heights: [...document.querySelectorAll('section, svg')]"
    ".map(e => Math.round(e.getBoundingClientRect().height)), requests: performance"
    ".getEntriesByType('resource').length, width: document.documentElement.scrollWidth})</script>"
)


class Measured(NamedTuple):
    """Heights of the sections and drawings in pixels, what else the page asked for, and how wide
    it is."""

    heights: list[int]
    requests: int
    width: int


def shown(page: Path, width: int = 1200) -> str:
    """The document as the browser has it; fails if its console says anything."""
    done = subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"),
            *("--enable-logging=stderr", f"--window-size={width},900"),
            *(f"--user-data-dir={page.parent / 'profile'}", f"file://{page.absolute()}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def measured(page: Path, width: int) -> Measured:
    """Of a copy with a script that measures; the page itself has none, and allows none."""
    text = page.read_text().replace(
        "default-src 'none';", "default-src 'none'; script-src 'unsafe-inline';"
    )
    copy = page.with_name(f"measured_{page.name}")
    copy.write_text(text.replace("</body>", f"{_SCRIPT}</body>"))
    title = re.search(r"<title>([^<]*)", shown(copy, width))
    assert title is not None
    return Measured(**json.loads(unescape(title[1])))
