"""The segmentation stage.

    python -m deeplab train   --config-path configs/<x>.yaml [key=value ...]
    python -m deeplab test    --config-path configs/<x>.yaml [--model-path FILE] [key=value ...]
    python -m deeplab crf     --config-path configs/<x>.yaml [--model-path FILE] [key=value ...]
    python -m deeplab demo    --config-path configs/<x>.yaml --image-path FILE_OR_FOLDER [--crf] [key=value ...]
    python -m deeplab refresh --config-path configs/<x>.yaml [--model-path FILE] [key=value ...]
    python -m deeplab convert IN OUT

`python -m deeplab <command> --help` tells more, and lists every key.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from deeplab import convert, crf, demo, refresh, train
from deeplab import predict as test
from deeplab.labelling import evaluations
from deeplab.settings import parse_args
from utils.errors import UserError, run_program


def main(argv: list[str]) -> None:
    """Run the command `argv` names. Raises UserError for an unknown command, and the command's own."""
    command, *rest = argv or ["--help"]
    if command in ("-h", "--help"):
        print(__doc__)
        return
    commands: dict[str, Callable[[list[str]], None]] = {
        "train": train.main,
        "test": partial(_evaluate, test),
        "crf": partial(_evaluate, crf),
        "demo": demo.main,
        "refresh": partial(_evaluate, refresh),
        "convert": convert.main,
    }
    if command not in commands:
        raise UserError(f"unknown command '{command}', expected one of {', '.join(commands)}")
    commands[command](rest if command == "convert" else translate(rest))


def translate(argv: list[str]) -> list[str]:
    """Turn the published options --cpu, --cuda and -j/--n-jobs N into keys."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--cpu", dest="device", action="store_const", const="cpu")
    parser.add_argument("--cuda", dest="device", action="store_const", const="cuda")
    parser.add_argument("-j", "--n-jobs", type=int)
    known, rest = parser.parse_known_args(argv)
    device = [f"device={known.device}"] if known.device else []
    jobs = [f"crf.workers={known.n_jobs}"] if known.n_jobs is not None else []
    return [*rest, *device, *jobs]


def _evaluate(command: ModuleType, argv: list[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-m", "--model-path", type=Path)
    known, rest = parser.parse_known_args(argv)
    for cfg in evaluations(parse_args(rest, command.__doc__ or "")):
        command.run(cfg, known.model_path)


if __name__ == "__main__":
    run_program(main)
