"""Fetching, against a server that breaks off, lies about length, ignores what is asked and serves damaged files."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from scripts import download
from utils.errors import UserError
from utils.prepare.fetch import Download, fetch

CONTENT = bytes(range(256)) * 40
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


class _Handler(BaseHTTPRequestHandler):
    """The first folder of a path says how the server misbehaves; every request is noted with its range."""

    asked: list[tuple[str, str]] = []

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        wanted = self.headers.get("Range", "")
        self.asked.append((kind, wanted))
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0)
        content = CONTENT[:5000] + b"?" + CONTENT[5001:] if kind == "damaged" else CONTENT
        if kind == "page":
            content = b"<html>Please log in</html>"
        if kind == "absent" or (kind == "once" and start):
            self.send_error(404)
            return
        if start >= len(content):
            self.send_error(416)
            return
        ranged = bool(wanted) and kind not in ("deaf", "page")
        body = content[start:] if ranged else content
        length = {"long": len(body) + 1000, "short": len(body) - 1000}.get(kind, len(body))
        self.send_response(206 if ranged else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8" if kind == "page" else "application/octet-stream")
        if kind != "mute":
            self.send_header("Content-Length", str(length))
        if ranged:
            first = 0 if kind == "elsewhere" else start
            self.send_header("Content-Range", f"bytes {first}-{start + length - 1}/{start + length}")
        self.end_headers()
        self.wfile.write(body[:3000] if kind in ("breaks", "once") else body[:length])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the address of a running server."""
    monkeypatch.setattr("utils.prepare.fetch.CHUNK", 1000)
    _Handler.asked = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()
    thread.join()


def _wanted(server: str, *kinds: str, digest: str = DIGEST, size: int = 0) -> Download:
    return Download("file.tar", tuple(f"{server}/{kind}/file.tar" for kind in kinds), digest, size)


@pytest.mark.parametrize("size", [0, len(CONTENT)])
@pytest.mark.parametrize(
    ("kinds", "asked"),
    [
        (("good",), ["good"]),
        (("breaks",), ["breaks"] * 4),
        (("absent", "good"), ["absent", "good"]),
        (("page", "good"), ["page", "good"]),
        (("damaged", "good"), ["damaged", "good"]),
        (("long", "good"), ["long", "long"]),  # what is there when asked for more is all of it, by its digest
        (("short", "good"), None),
        (("mute",), ["mute"]),
    ],
)
def test_the_file_is_there_whole_whatever_the_first_mirror_does(
    tmp_path: Path, server: str, kinds: tuple[str, ...], asked: list[str] | None, size: int
) -> None:
    path = fetch(_wanted(server, *kinds, size=size), tmp_path / "new")
    assert path.read_bytes() == CONTENT
    assert [p.name for p in path.parent.iterdir()] == ["file.tar"]
    found = [kind for kind, _ in _Handler.asked]
    assert asked is None or found == asked or (size and found == list(kinds))  # a wrong size is seen before a byte is read


def test_what_broke_off_is_continued_and_not_fetched_again(tmp_path: Path, server: str) -> None:
    fetch(_wanted(server, "breaks"), tmp_path)
    assert [given for _, given in _Handler.asked] == ["", "bytes=3000-", "bytes=6000-", "bytes=9000-"]
    (tmp_path / "file.tar").unlink()
    (tmp_path / "file.tar.part").write_bytes(CONTENT[:7000])
    _Handler.asked.clear()
    fetch(_wanted(server, "good"), tmp_path)
    assert _Handler.asked == [("good", "bytes=7000-")]
    fetch(_wanted(server, "good"), tmp_path)  # there, and whole: nothing is asked
    assert len(_Handler.asked) == 1


@pytest.mark.parametrize("kinds", [("deaf",), ("elsewhere", "deaf")])
def test_a_server_that_ignores_where_to_begin_does_not_damage_the_file(
    tmp_path: Path, server: str, kinds: tuple[str, ...]
) -> None:
    (tmp_path / "file.tar.part").write_bytes(CONTENT[:7000])
    assert fetch(_wanted(server, *kinds), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"!" * 7000, b"!" * len(CONTENT), b"!" * (len(CONTENT) + 5)])
def test_a_damaged_beginning_is_fetched_again_from_the_same_place(tmp_path: Path, server: str, left: bytes) -> None:
    (tmp_path / "file.tar.part").write_bytes(left)
    assert fetch(_wanted(server, "good"), tmp_path).read_bytes() == CONTENT


def test_where_no_digest_is_known_mirrors_are_not_mixed(tmp_path: Path, server: str) -> None:
    assert fetch(_wanted(server, "once", "good", digest=""), tmp_path).read_bytes() == CONTENT
    assert _Handler.asked == [("once", ""), ("once", "bytes=3000-"), ("good", "")]
    (tmp_path / "file.tar").unlink()
    assert fetch(_wanted(server, "once", "good"), tmp_path).read_bytes() == CONTENT
    assert _Handler.asked[-1] == ("good", "bytes=3000-")


def test_when_nothing_helps_it_says_what_each_mirror_did(tmp_path: Path, server: str) -> None:
    with pytest.raises(
        UserError, match=r"damaged/file\.tar sent a file, but its SHA256 is .*absent.*404.*page.*web page"
    ) as caught:
        fetch(_wanted(server, "damaged", "absent", "page"), tmp_path)
    assert "\n" not in str(caught.value) and f"Put it into {tmp_path} by hand" in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"offers 10240 bytes, expected 99"):
        fetch(_wanted(server, "good", size=99), tmp_path)
    (tmp_path / "file.tar").write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=r"file\.tar is there, but its SHA256 is .*remove it"):
        fetch(_wanted(server, "good"), tmp_path)
    assert (tmp_path / "file.tar").stat().st_size == len(CONTENT) - 1  # not ours to delete
    with pytest.raises(UserError, match=r"GiB free, file\.tar\.part needs"), pytest.MonkeyPatch.context() as patch:
        (tmp_path / "file.tar").unlink()
        patch.setattr("utils.prepare.fetch._span", lambda *_: (0, 2**60))
        fetch(_wanted(server, "good"), tmp_path)


def test_the_program_fetches_by_name_tells_what_is_next_and_goes_on_after_a_failure(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {"bad": _wanted(server, "damaged"), "plain": _wanted(server, "absent", digest="")}
    items = {name: download.Item((file,), download.ARCHIVES, name, "see {0}") for name, file in files.items()}
    monkeypatch.setattr(download, "ITEMS", items)
    with pytest.raises(UserError, match="damaged"):
        download.run(["bad", "plain"], tmp_path, [f"{server}/damaged/"])
    (tmp_path / "file.tar").unlink()
    assert download.run(["plain"], tmp_path, [f"{server}/good/"]) == [tmp_path / "file.tar"]
    told = capsys.readouterr().out
    assert f"nobody states its digest, it is {DIGEST.replace(':', ' ')}" in told and f"next: see {tmp_path}" in told
    with pytest.raises(UserError, match="voc13 is unknown, expected of bad, plain"):
        download.run(["voc13"], tmp_path, [])
    download.main(["--list"])
    assert f"bad; to {Path('data/downloads')}" in capsys.readouterr().out


def test_the_known_files_have_digests_or_say_so() -> None:
    without = {name for name, item in download.ITEMS.items() if not all(file.digest for file in item.files)}
    assert without == {"resnet38", "deeplab_coco_init"}
    voc = download.ITEMS["voc12"].files[0]
    assert voc.size == 1999639040 and voc.digest.endswith("91763bcb")
    assert all(len(file.mirrors) >= 2 for name in ("voc12", "sbd", "coco14", "resnet38") for file in download.ITEMS[name].files)
