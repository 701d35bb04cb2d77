"""Damaged input: for each kind of file, what may have happened to it, and what must follow."""

import io
import json
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tests.faults.mill import REFUSED, SAME, SOUND, WHOLE, Fault, Program
from tests.faults.tensors import CHECKPOINTS, NETWORKS, WEIGHTS


class Damage(NamedTuple):
    """What happens to a file, and what must follow (`Fault.expect`)."""

    spoil: Callable[[Path], None]
    expect: str = REFUSED


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return partial(_change_bytes, change)


def _change_bytes(change: Callable[[bytes], bytes], path: Path) -> None:
    path.write_bytes(change(path.read_bytes()))


def _text(change: Callable[[str], str]) -> Callable[[Path], None]:
    return _bytes(lambda content: change(content.decode()).encode())


def _replaced(make: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        path.unlink()
        make(path)

    return spoil


def _flip(share: float, content: bytes) -> bytes:
    """Return content with one bit the other way, at a share of its length."""
    place = int(share * (len(content) - 1))
    return content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :]


def _front(share: float, content: bytes) -> bytes:
    return content[: int(share * len(content))]


def _noise(content: bytes) -> bytes:
    return random.Random(0).randbytes(max(len(content), 100))


# Whatever the format. A text may be cut or flipped into another good text.
_ANY = {
    "missing": Damage(Path.unlink),
    "empty": Damage(_bytes(lambda content: b"")),
    "noise": Damage(_bytes(_noise)),
    "a folder": Damage(_replaced(Path.mkdir)),
    "a pipe": Damage(_replaced(os.mkfifo)),
    "a broken link": Damage(_replaced(lambda path: path.symlink_to("nowhere"))),
    "a link to itself": Damage(_replaced(lambda path: path.symlink_to(path.name))),
    "zeros": Damage(_bytes(lambda content: bytes(len(content)))),
}


def _cut(expect: str) -> dict[str, Damage]:
    cuts = {f"cut at {share:.0%}": Damage(_bytes(partial(_front, share)), expect) for share in (0.1, 0.5, 0.9)}
    return {**cuts, "last byte gone": Damage(_bytes(lambda content: content[:-1]), WHOLE if expect == WHOLE else SAME)}


def _flips(expect: str) -> dict[str, Damage]:
    shares = (0.0, 0.003, 0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.97, 0.999)
    return {f"a bit flipped at {share:.1%}": Damage(_bytes(partial(_flip, share)), expect) for share in shares}


BINARY = {
    **_ANY,
    **_cut(REFUSED),
    **_flips(SAME),
    "a text": Damage(_bytes(lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")),
    "more at its end": Damage(_bytes(lambda content: content + b"\0more"), SAME),
}


def _add_line(line: str) -> Callable[[Path], None]:
    return _text(lambda text: f"{text.removesuffix(chr(10))}\n{line}\n")


TEXT = {
    **_ANY,
    **_cut(WHOLE),
    **_flips(WHOLE),
    "UTF-16": Damage(_bytes(lambda content: content.decode().encode("utf-16"))),
    "a byte that is no UTF-8": Damage(_bytes(lambda content: content[:20] + b"\xff" + content[20:])),
    "NUL bytes": Damage(_bytes(lambda content: content[:20] + b"\0\0" + content[20:]), SAME),
    "Windows line ends": Damage(_text(lambda text: text.replace("\n", "\r\n")), SOUND),
    "a byte-order mark": Damage(_bytes(lambda content: b"\xef\xbb\xbf" + content), SOUND),
    "a line of a megabyte": Damage(_add_line("x" * 1_000_000)),
}


def _lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    return _text(lambda text: "\n".join(change(text.splitlines())) + "\n")


def _one(change: Callable[[str], str], number: int = 1) -> Callable[[Path], None]:
    return _lines(lambda lines: [change(line) if n == number else line for n, line in enumerate(lines)])


LISTS = {
    **TEXT,
    "a line of a megabyte": Damage(_add_line("x" * 1_000_000), SAME),
    "an image twice": Damage(_lines(lambda lines: [*lines, lines[1]])),
    "an unknown image": Damage(_lines(lambda lines: [*lines, lines[0].replace("img_000", "img_777")]), SAME),
    "another folder's image": Damage(_one(lambda line: "../" + line)),
    "spaces at the ends": Damage(_lines(lambda lines: [f"  {line}   " for line in lines]), SOUND),
    "tabs": Damage(_text(lambda text: text.replace(" ", "\t")), SOUND),
    "empty lines": Damage(_lines(lambda lines: ["", *lines, "", ""]), SOUND),
    "Macintosh line ends": Damage(_text(lambda text: text.replace("\n", "\r")), SAME),
    "nothing but spaces": Damage(_text(lambda text: "  \n \n")),
    "a comment": Damage(_lines(lambda lines: ["# images", *lines])),
}
LABELS = {
    **LISTS,
    "an image twice, other classes": Damage(_lines(lambda lines: [*lines, lines[1].split()[0] + " 2"])),
    "one-hot columns": Damage(_lines(lambda lines: [f"{line.split()[0]} 0 1 0" for line in lines])),
    "a class twice": Damage(_one(lambda line: line.split()[0] + " 1 1")),
    "a class too high": Damage(_one(lambda line: line + " 3")),
    "a class below 0": Damage(_one(lambda line: line + " -1")),
    "a class with a fraction": Damage(_one(lambda line: line + " 1.0")),
    "a class by its name": Damage(_one(lambda line: line + " green")),
    "digits of another script": Damage(_one(lambda line: line.split()[0] + " ١")),
    "an underscore in a number": Damage(_one(lambda line: line.split()[0] + " 0_1")),
    "commas": Damage(_text(lambda text: text.replace(" ", ","))),
    "no class": Damage(_one(lambda line: line.split()[0]), WHOLE),
}
PAIRS = {
    **LISTS,
    "two images on a line": Damage(_one(lambda line: line.replace("Aug/img_001", "Aug/img_002"))),
    "three paths": Damage(_one(lambda line: f"{line} /x/img_001.png")),
    "absolute paths elsewhere": Damage(_one(lambda line: "/../../etc/img_001.jpg /etc/img_001.png")),
    "backslashes": Damage(_one(lambda line: line.replace("/", "\\"))),
}


def _picture(change: Callable[[Image.Image], Image.Image], form: str = "PNG", **options: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with Image.open(path) as image:
            image.load()
        buffer = io.BytesIO()
        change(image).save(buffer, form, **options)
        path.write_bytes(buffer.getvalue())

    return spoil


def _of_array(change: Callable[[Any], Any]) -> Callable[[Image.Image], Image.Image]:
    return lambda image: Image.fromarray(change(np.asarray(image)))


def _forged_size(content: bytes) -> bytes:
    """Return a PNG that says of itself it had 10^10 pixels."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


_BOMB = Damage(_bytes(_forged_size))
_DEEP = Damage(_picture(_of_array(lambda a: (a if a.ndim == 2 else a[..., 0]).astype(np.uint16) * 257)))
_TWICE = _picture(lambda image: image.resize((image.width * 2, image.height)))
# The content of a JPEG has no sum.
PICTURES = {
    **BINARY,
    **_flips(WHOLE),
    **_cut(REFUSED),
    "last byte gone": Damage(_bytes(lambda content: content[:-1]), WHOLE),
    "zeros": Damage(_bytes(lambda content: bytes(len(content)))),
    "10^10 pixels": _BOMB,
    "16 bits": _DEEP,
    "floating point": Damage(_picture(lambda image: image.convert("F"), "TIFF")),
    "another size": Damage(_TWICE, WHOLE),
    "one pixel": Damage(_picture(lambda image: image.resize((1, 1))), WHOLE),
    "grey": Damage(_picture(lambda image: image.convert("L"), "JPEG"), WHOLE),
    "four inks": Damage(_picture(lambda image: image.convert("CMYK"), "JPEG"), WHOLE),
    "a palette and frames": Damage(_picture(lambda image: image.convert("P"), "GIF"), WHOLE),
    "alpha": Damage(_picture(lambda image: image.convert("RGBA")), WHOLE),
    "a PNG of that name": Damage(_picture(lambda image: image), WHOLE),
}
_MAPS = {
    **BINARY,
    "10^10 pixels": _BOMB,
    "16 bits": _DEEP,
    "colours": Damage(_picture(lambda image: image.convert("RGB"))),
    "alpha": Damage(_picture(lambda image: image.convert("RGBA"))),
    "another size": Damage(_TWICE),
    "one pixel": Damage(_picture(lambda image: image.resize((1, 1)))),
    "floating point": Damage(_picture(lambda image: image.convert("F"), "TIFF")),
    "all 0": Damage(_picture(_of_array(np.zeros_like)), WHOLE),
    "all 255": Damage(_picture(_of_array(lambda a: np.full_like(a, 255))), WHOLE),
}
MASKS = {
    **_MAPS,
    "a value that is no class": Damage(_picture(_of_array(lambda a: np.where(a == 0, 99, a).astype(np.uint8)))),
    "two values, 0 and 255": Damage(_picture(_of_array(lambda a: ((a > 0) * 255).astype(np.uint8))), WHOLE),
}


# Of images without ground truth labels are made all the same, and counted.
TRUTH = {**MASKS, **{name: Damage(MASKS[name].spoil, WHOLE) for name in ("missing", "a broken link", "a link to itself")}}


def _arrays(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        with np.load(path) as file:
            content = dict(file)
        np.savez(path, **change(content))

    return spoil


def _each(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """Change the floating-point arrays of an archive."""
    return _arrays(lambda content: {k: change(v) if v.dtype.kind == "f" else v for k, v in content.items()})


def _with(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array = np.array(array)
        array.flat[array.size // 2] = value
        return array

    return change


ARCHIVES = {
    **BINARY,
    "NaN": Damage(_each(_with(np.nan))),
    "infinite": Damage(_each(_with(np.inf))),
    "an array fewer": Damage(_arrays(lambda content: dict(list(content.items())[1:]))),
    "other names": Damage(_arrays(lambda content: {f"x{k}": v for k, v in content.items()})),
    "another shape": Damage(_each(lambda a: a[..., :-3]), WHOLE),
    "a dimension fewer": Damage(_each(lambda a: a.reshape(-1)[:1].reshape(()))),
    "no numbers": Damage(_each(lambda a: a.astype(str))),
    "pickled objects": Damage(_each(lambda a: np.array([{}], dtype=object))),
    "whole numbers": Damage(_each(lambda a: a.astype(np.int64))),
    "nothing": Damage(_each(lambda a: a[:0])),
}
LOGITS = {**ARCHIVES, "a class more": Damage(_each(lambda a: np.concatenate([a, a[:1]])))}


def _aliases(text: str) -> str:
    """Return YAML of a few hundred letters that is 9^9 values with its aliases written out."""
    rows = ["a0: &a0 [1,1,1,1,1,1,1,1,1]", *(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))]
    return text + "\n".join(rows) + "\n"


def _itself_as_base(path: Path) -> None:
    path.write_text(_own_base(path.read_text(), path.name))


YAML = {
    **TEXT,
    "cut at 10%": Damage(_bytes(lambda content: content[: len(content) // 10]), WHOLE),
    "zeros": Damage(_bytes(lambda content: bytes(len(content)))),
    "empty": Damage(_bytes(lambda content: b""), WHOLE),
    "aliases that multiply": Damage(_text(_aliases)),
    "an alias to itself": Damage(_add_line("zz: &z [*z]")),
    "nested ten thousand deep": Damage(_add_line("zz: " + "[" * 10_000 + "]" * 10_000)),
    "a list": Damage(_text(lambda text: "- a\n- b\n")),
    "a number": Damage(_text(lambda text: "7\n")),
    "two documents": Damage(_text(lambda text: f"{text}---\na: 1\n")),
    "a tab": Damage(_add_line("train:\n\tlr: 1")),
    "an unknown key": Damage(_add_line("nonsense: 1")),
    "an unknown tag": Damage(_add_line("zz: !!python/object/apply:os.system ['true']")),
    "a missing base": Damage(_text(lambda text: _own_base(text, "no.yaml"))),
    "itself as base": Damage(_itself_as_base),
    "a reference to nothing": Damage(_add_line("name: ${nowhere.at_all}")),
    "keys that are lists": Damage(_add_line("? [a, b]\n: 1")),
}


def _own_base(text: str, name: str) -> str:
    return f"base: {name}\n" + "\n".join(line for line in text.splitlines() if not line.startswith("base:")) + "\n"


def _json(change: Callable[[Any], Any]) -> Callable[[Path], None]:
    return _text(lambda text: json.dumps(change(json.loads(text))))


_ODD: dict[str, Any] = {"null": None, "a list": [], "a text": "x", "a number": -1e400, "a dictionary": {"a": 1}, "true": True}


def _odd_values() -> dict[str, Damage]:
    """Return damage to one value of a JSON file: the n-th one that is reached, replaced by another type or removed."""
    return {
        f"value {place} is {name}": Damage(_json(partial(_replace_at, place, odd)), WHOLE)
        for place in range(24)
        for name, odd in list(_ODD.items())[place % 2 :: 2]
    }


def _replace_at(place: int, odd: Any, content: Any) -> Any:
    slots = list(_slots(content))
    holder, name = slots[(place * 7 if place > 7 else place) % len(slots)]
    holder[name] = odd
    return content


def _slots(content: Any, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of values, outer ones first; of lists the first two."""
    if depth > 4:
        return
    names = list(content) if isinstance(content, dict) else range(min(2, len(content))) if isinstance(content, list) else ()
    yield from ((content, name) for name in names)
    for name in names:
        yield from _slots(content[name], depth + 1)


JSON = {
    **TEXT,
    **_odd_values(),
    "cut at 90%": Damage(_bytes(lambda content: content[: int(0.9 * len(content))])),
    "an empty list": Damage(_text(lambda text: "[]")),
    "another dictionary": Damage(_text(lambda text: '{"a": 1}')),
    "null": Damage(_text(lambda text: "null")),
    "a number": Damage(_text(lambda text: "1e400")),
    "nested a hundred thousand deep": Damage(_text(lambda text: "[" * 100_000 + "]" * 100_000)),
    "a number of 5000 digits": Damage(_text(lambda text: '{"a": ' + "1" * 5000 + "}")),
}
CSV = {
    **TEXT,
    "a picture twice": Damage(_lines(lambda lines: [*lines, lines[1]])),
    "an unknown picture": Damage(_lines(lambda lines: [*lines, "zz.jpg,cat"])),
    "columns of 0 and 1": Damage(_lines(lambda lines: ["file,cat,dog,cow", *(f"{x.split(',')[0]},0,1,0" for x in lines[1:])])),
    "a quote left open": Damage(_one(lambda line: line.replace(",", ',"')), WHOLE),
    "a field too long for CSV": Damage(_one(lambda line: f"{line};{'c' * 140_000}")),
    "a class named like a path": Damage(_one(lambda line: f"{line};../x"), WHOLE),
    "no classes": Damage(_lines(lambda lines: [f"{line.split(',')[0]}," for line in lines])),
    "only its heading": Damage(_lines(lambda lines: lines[:1])),
}
# What is told by a card is missing without it; what is only linked is not looked at.
CARDS = {**JSON, "missing": Damage(Path.unlink, WHOLE)}
LINKED = {
    name: damage if name in ("missing", "a broken link") else Damage(damage.spoil, WHOLE) for name, damage in PICTURES.items()
}
# They are made anew, and not rounded to half precision as the files are: a pixel may differ.
LOGITS = {**LOGITS, **{name: Damage(LOGITS[name].spoil, WHOLE) for name in ("missing", "a broken link", "a link to itself")}}
DAMAGES: dict[str, dict[str, Damage]] = {
    "file": BINARY,
    "text": TEXT,
    # Its content has no sum.
    "unsummed": {**BINARY, **_flips(WHOLE), "more at its end": Damage(_bytes(lambda content: content + b"\0more"), WHOLE)},
    "list": LISTS,
    "picture": PICTURES,
    "grey": _MAPS,
    "png": _MAPS,
    "mask": MASKS,
    "truth": TRUTH,
    "npz": ARCHIVES,
    "logits": LOGITS,
    "labels": LABELS,
    "pairs": PAIRS,
    "yaml": YAML,
    "json": JSON,
    "card": CARDS,
    "linked": LINKED,
    "csv": CSV,
    "weights": {**BINARY, **{name: Damage(*damage) for name, damage in WEIGHTS.items()}},
    "networks": {**BINARY, **{name: Damage(*damage) for name, damage in NETWORKS.items()}},
    "checkpoint": {name: Damage(*damage) for name, damage in CHECKPOINTS.items()},
}


def file_faults(program: Program) -> Iterator[Fault]:
    """Yield every damage to every file a program reads."""
    for path, kind in program.reads.items():
        for name, damage in DAMAGES[kind].items():
            names = (Path(path).stem, Path(path).parent.name) if damage.expect in (REFUSED, SAME) else ()
            yield Fault(
                kind, f"{path}: {name}", program, partial(_spoil_at, path, damage.spoil), expect=damage.expect, names=names
            )


def _spoil_at(path: str, spoil: Callable[[Path], None], folder: Path) -> None:
    spoil(folder / path)
