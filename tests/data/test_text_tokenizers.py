"""Tokenizers by name: built in, of folders, and of the Hugging Face hub."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from genodiff.data import (
    ByteTokenizer,
    CharacterTokenizer,
    SubwordTokenizer,
    TextTokenizer,
    fingerprint,
    load_tokenizer,
)
from genodiff.errors import OutsideError, UserError
from tests.data.tiny_vocabularies import bert_folder, gpt2_folder


def test_built_in_names() -> None:
    assert load_tokenizer("bytes") == ByteTokenizer()
    assert load_tokenizer("text8") == CharacterTokenizer()
    assert isinstance(load_tokenizer("bytes"), TextTokenizer)
    assert [row.tolist() for row in ByteTokenizer().encode_batch(["a", ""])] == [[97], []]
    assert ByteTokenizer().bos_id is None and ByteTokenizer().eos_id is None


def test_a_fingerprint_is_of_all_that_defines_a_tokenizer(tmp_path: Path) -> None:
    bert = load_tokenizer(str(bert_folder(tmp_path / "bert")))
    cased = load_tokenizer(str(bert_folder(tmp_path / "cased", do_lower_case=False)))
    assert isinstance(bert, SubwordTokenizer)
    same = load_tokenizer(str(tmp_path / "bert"))
    others = [cased, SubwordTokenizer(bert.definition), ByteTokenizer(), CharacterTokenizer()]
    assert fingerprint(bert) == fingerprint(same)
    assert len({fingerprint(each) for each in [bert, *others]}) == 5
    assert all(len(fingerprint(each)) == 64 for each in others)


def test_a_model_folder_of_bytes_and_one_of_dna(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"_target_": "genodiff.data.CharacterTokenizer"}')
    assert load_tokenizer(str(tmp_path)) == CharacterTokenizer()
    path.write_text('{"_target_": "genodiff.data.DnaTokenizer", "predict_n": false}')
    with pytest.raises(UserError, match="a model's that reads DnaTokenizer, which is not text"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/tokenizer"])
def test_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"tokenizer={name} is no folder; give one, or a name"):
        load_tokenizer(name)


def test_a_revision_of_what_has_none(tmp_path: Path) -> None:
    for name in ("bytes", str(tmp_path)):
        with pytest.raises(
            UserError, match=r"tokenizer_revision=main is for names of the Hugging Face hub"
        ):
            load_tokenizer(name, "main")


# The hub


class Hub:
    """As much of the Hugging Face hub as its client asks for a model's files."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def __init__(self, files: dict[str, bytes]) -> None:
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.answer()

            def do_GET(self) -> None:
                self.wfile.write(self.answer())

            def answer(self) -> bytes:
                hub.asked.append(self.path)
                headers, status = {"X-Repo-Commit": hub.COMMIT}, 200
                names = [*files, "model.safetensors"]
                if self.path.startswith("/api/models/some/model/revision/v1"):
                    listed = [{"rfilename": name} for name in names]
                    table = {"id": "some/model", "sha": hub.COMMIT, "siblings": listed}
                    content = json.dumps(table).encode()
                elif self.path.startswith(f"/api/models/some/model/tree/{hub.COMMIT}"):
                    entry = {"type": "file", "size": 1, "oid": hub.COMMIT}
                    content = json.dumps([{**entry, "path": name} for name in names]).encode()
                elif self.path.startswith(f"/some/model/resolve/{hub.COMMIT}/"):
                    name = self.path.rpartition("/")[2]
                    content, headers["ETag"] = files[name], f'"{name}"'
                else:
                    wrong = "Revision" if "/some/model/" in self.path else "Repo"
                    content, status = b"", 404
                    headers["X-Error-Code"] = f"{wrong}NotFound"
                self.send_response(status)
                for key, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(key, value)
                self.end_headers()
                return content

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with a model `some/model`, of revision v1, whose tokenizer is GPT-2's."""
    from huggingface_hub import constants

    folder = gpt2_folder(tmp_path / "gpt2")
    site = Hub({path.name: path.read_bytes() for path in folder.iterdir()})
    monkeypatch.setattr(constants, "ENDPOINT", site.endpoint)
    template = site.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=site.server.serve_forever, daemon=True)
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


def test_a_name_of_the_hub_is_fetched_once_without_its_weights(hub: Hub, tmp_path: Path) -> None:
    tokenizer = load_tokenizer("some/model", "v1")
    assert tokenizer == load_tokenizer(str(tmp_path / "gpt2"))
    fetched = [path for path in hub.asked if "/resolve/" in path]
    assert {path.rpartition("/")[2] for path in fetched} == {"vocab.json", "merges.txt"}
    hub.asked.clear()
    assert load_tokenizer("some/model", "v1") == tokenizer
    assert not [path for path in hub.asked if "/resolve/" in path]


def test_what_was_fetched_is_there_without_a_network(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    tokenizer = load_tokenizer("some/model", "v1")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    assert load_tokenizer("some/model", "v1") == tokenizer


def test_a_name_or_a_revision_that_the_hub_does_not_have(hub: Hub) -> None:
    for name, revision in (("some/other", None), ("some/model", "v2"), ("not a name!", None)):
        with pytest.raises(UserError, match="the Hugging Face hub has no such name") as refused:
            load_tokenizer(name, revision)
        assert f"tokenizer={name} " in str(refused.value) and "\n" not in str(refused.value)


def test_a_name_of_the_hub_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port()}")
    message = r"tokenizer=bert-base-uncased is no folder, and the Hugging Face hub cannot be"
    with pytest.raises(OutsideError, match=message) as failed:
        load_tokenizer("bert-base-uncased")
    assert "\n" not in str(failed.value) and len(str(failed.value)) < 400
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OutsideError, match=message):
        load_tokenizer("bert-base-uncased")


def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
