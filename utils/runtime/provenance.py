"""What made these files, and may I go on? A note beside them of what they follow from, compared with what is wanted."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.files import only_file, parse_json, write_text_atomic

NOTE = "source.json"


def read_source(folder: Path) -> dict[str, Any] | None:
    """Return what the files of a folder follow from, None without a note. Raises UserError for one it cannot read."""
    path = folder / NOTE
    try:
        content = parse_json(only_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); delete the folder {folder} or name another one") from error
    return content if isinstance(content, dict) else None


def write_source(folder: Path, source: Mapping[str, Any]) -> None:
    """Note in a folder (made if missing) what its files follow from."""
    write_text_atomic(folder / NOTE, json.dumps(source, indent=2, sort_keys=True) + "\n")


def differing(found: Mapping[str, Any], wanted: Mapping[str, Any], ignored: Collection[str] = ()) -> list[str]:
    """Return the names under which two sources differ, those of `wanted` first."""
    names = [*wanted, *(name for name in found if name not in wanted)]
    return [name for name in names if name not in ignored and found.get(name) != wanted.get(name)]


def fingerprint(lines: Sequence[str]) -> str:
    """Return how many images a list has and a checksum of its lines: a text that differs where two lists do."""
    checksum = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return f"{len(lines)} images ({checksum[:12]})"


def claim_folder(
    folder: Path, source: Mapping[str, Any], key: str, *, overwrite: bool = False, ignored: Collection[str] = ()
) -> None:
    """Make sure that the files of a folder, if any, follow from `source`, and note it there.

    Args:
        folder: made if missing.
        source: what its files will follow from.
        key: that names the folder, e.g. cam.dir.
        overwrite: they are replaced, whatever they follow from.
        ignored: names that may differ.

    Raises:
        UserError: naming what differs.
    """
    found = read_source(folder)
    if not overwrite and found is not None and (other := differing(found, source, ignored)):
        raise UserError(
            f"{folder} holds files made with another {', '.join(other)} (see {folder / NOTE}); use "
            f"{key.partition('.')[0]}.overwrite=true to replace them or another {key} to keep them"
        )
    write_source(folder, source)
