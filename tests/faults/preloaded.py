"""What the server of the mill loads once, for all processes it forks; nothing here starts a thread or computes."""

import contextlib
import importlib
from pathlib import Path

from PIL import Image

from models.method import find_method

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = [f"scripts.{path.stem}" for path in sorted((ROOT / "scripts").glob("[!_]*.py"))]
# Loaded by the programs when they first need them.
LATER = (
    "deeplab.__main__", "matplotlib.pyplot", "models.refiners.dense_crf", "omegaconf", "pycocotools.mask", "scipy.io",
    "pydensecrf.densecrf", "tensorboard.summary.writer.event_file_writer", "torch._dynamo", "torch.utils.tensorboard",
    "tests.faults.served", "torch.package", "utils.report.groups", "utils.report.pages", "utils.training.journal",
)  # fmt: skip
for _name in (*PROGRAMS, *LATER):
    with contextlib.suppress(ModuleNotFoundError):  # of the machine, or optional
        importlib.import_module(_name)
for _name in ("l2g", "wsfcn"):
    find_method(_name)
Image.init()
# Whoever may not read Python's own folder could not load these.
for _encoding in ("utf-8-sig", "cp437", "utf-16", "utf-16-be", "latin-1", "idna"):
    "".encode(_encoding)
