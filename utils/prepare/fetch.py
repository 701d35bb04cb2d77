"""Fetching a file over an unreliable network: resumed, checked, from several places in turn."""

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from utils.errors import UserError
from utils.runtime.log import progress

CHUNK = 2**20
TIMEOUT = 60.0  # seconds without a byte
PART = ".part"
USER_AGENT = "Mozilla/5.0 (compatible; scripts.download)"  # some mirrors refuse urllib's own
_BROKEN = (OSError, http.client.HTTPException)  # urllib's errors are among them


@dataclass(frozen=True)
class Download:
    """A file somebody publishes.

    Attributes:
        file: its name.
        mirrors: addresses of the same file, tried in this order.
        digest: "sha256:<hex>" or "md5:<hex>"; the first digits of it are enough; empty where nobody states one.
        size: bytes; 0 where unknown.
    """

    file: str
    mirrors: tuple[str, ...]
    digest: str = ""
    size: int = 0


class _Rejected(Exception):
    """What a server offers is not the file."""


def fetch(wanted: Download, folder: Path) -> Path:
    """Fetch a file to `folder`, unless it is there and whole; what an earlier call has got of it is kept and continued.

    A mirror that breaks off is asked again for the rest; one that offers another size or a damaged file is left for the next.
    Where nobody states a digest, the rest of a file is never taken from another mirror than its beginning.

    Returns:
        the file.

    Raises:
        UserError: when no mirror gave the file, with what each of them did, or the disk has too little room.
    """
    path, part = folder / wanted.file, folder / (wanted.file + PART)
    if path.is_file():
        if problem := _difference(path, wanted):
            raise UserError(f"{path} is there, but {problem}; remove it (or move it away) and run the same command again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    told: list[str] = []
    for url in wanted.mirrors:
        while not path.is_file():
            before = _size(part)
            try:
                _continue(url, part, wanted)
            except _Rejected as rejected:
                told.append(f"{url} {rejected}")
                break
            except _BROKEN as error:
                told.append(f"{url} broke off or was not reached ({_why(error)})")
                if _size(part) <= before:
                    break
                continue
            if problem := _difference(part, wanted):
                part.unlink()
                told.append(f"{url} sent a file, but {problem}")
                if not before:
                    break
                continue  # its beginning may be another mirror's: once more, all of it from here
            part.replace(path)
        if path.is_file():
            return path
        if not wanted.digest:
            part.unlink(missing_ok=True)
    kept = f" {_size(part) / CHUNK:.0f} MiB are kept, the same command continues." if part.exists() else ""
    raise UserError(
        f"{wanted.file} could not be fetched: {'; '.join(dict.fromkeys(told))}.{kept} Put it into {folder} by hand, or name "
        "another place by --mirror"
    )


def _continue(url: str, part: Path, wanted: Download) -> None:
    """Append to `part` what it lacks of the file at `url`."""
    have = _size(part)
    if have and have == wanted.size:
        return
    headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            return  # nothing is left to send: the digest says whether it is the file
        raise
    with response:
        start, total = _span(response, have)
        if wanted.size and total and total != wanted.size:
            raise _Rejected(f"offers {total} bytes, expected {wanted.size}")
        if response.headers.get_content_type() == "text/html":
            raise _Rejected("answers with a web page instead of the file")
        _check_room(part, total - start)
        with part.open("r+b" if start else "wb") as file:
            file.truncate(start)
            file.seek(start)
            _copy(response, file, start, total, wanted.file)
    if total and _size(part) < total:
        raise http.client.IncompleteRead(b"", total - _size(part))


def _span(response: http.client.HTTPResponse, have: int) -> tuple[int, int]:
    """Return where the answer's first byte belongs and how long the file is, 0: not said; a server may ignore what is asked."""
    length = int(response.headers.get("Content-Length") or 0)
    if response.status != http.client.PARTIAL_CONTENT:
        return 0, length
    span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes").strip().partition("/")
    start = span.partition("-")[0]
    if start != str(have):
        raise _Rejected(f"sends bytes from {start or 'nowhere'}, asked for those from {have}")
    return have, int(total) if total.isdigit() else have + length


def _copy(response: IO[bytes], file: IO[bytes], start: int, total: int, name: str) -> None:
    def chunks() -> Iterator[bytes]:
        while chunk := response.read(CHUNK):
            yield chunk

    whole = -(-total // CHUNK) if total else start // CHUNK + 1
    for chunk in progress(chunks(), max(whole, 1), f"{name}, MiB", initial=start // CHUNK):
        file.write(chunk)


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise UserError(
            f"{part.parent} has {free / 2**30:.1f} GiB free, {part.name} needs {needed / 2**30:.1f} more; free some"
        )


def _difference(path: Path, wanted: Download) -> str:
    """Return what tells a file from the wanted one, or nothing."""
    if wanted.size and _size(path) != wanted.size:
        return f"has {_size(path)} bytes, expected {wanted.size}"
    kind, _, expected = wanted.digest.partition(":")
    if expected and not (found := digest_of(path, kind)).startswith(expected):
        return f"its {kind.upper()} is {found}, expected {expected}"
    return ""


def digest_of(path: Path, kind: str = "sha256") -> str:
    """Return a file's digest in hexadecimal."""
    digest = hashlib.new(kind)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{error.code} {error.reason}"
    reason = getattr(error, "reason", None)
    return " ".join(str(reason if reason else error).split())[:120] or type(error).__name__
