"""Make saliency maps with an off-the-shelf network, for pictures that have none.

    python -m scripts.make_saliency --config configs/mine.yaml saliency.model=u2net.onnx saliency.image_list=all
    python -m scripts.make_saliency --config configs/mine.yaml saliency.model=rembg:u2net         # rembg fetches the model
    python -m scripts.make_saliency --config configs/mine.yaml saliency.model=isnet.onnx saliency.input_size=1024 \\
        saliency.divide=255 saliency.mean=[0.5,0.5,0.5] saliency.std=[1,1,1]

Needs one optional library: python -m pip install onnxruntime (or onnxruntime-gpu), or 'rembg[cpu]'. The published runs use
PoolNet's maps, which are read as they are; this is for other pictures. Writes 8-bit grey <saliency.out_dir>/<id>.png of the
picture's size. Maps that are there are kept unless saliency.overwrite=true, so that a stopped run continues. Then set
l2g.saliency=map and pseudo.fusion=saliency.
"""

from functools import partial
from pathlib import Path

from configs.schema import Config
from configs.tools_schema import SaliencyConfig
from scripts.build import parse_args
from utils.data.folder import DataFolder
from utils.data.images import read_image, write_png
from utils.data.lists import read_id_list
from utils.errors import UserError, run_program
from utils.files import lock_folder
from utils.prepare.layout import own_folder
from utils.prepare.saliency import Predictor, load_saliency_model, uses_gpu
from utils.runtime.parallel import map_progress

ALL = "all"


def main(argv: list[str]) -> None:
    """Parse the command line and make saliency maps."""
    run(parse_args(argv, __doc__ or ""))


def run(cfg: Config) -> int:
    """Make maps as configured; returns how many. Raises UserError for a missing model, library or picture."""
    settings = cfg.saliency
    if len(settings.mean) != 3 or len(settings.std) != 3:
        raise UserError("saliency.mean and saliency.std need three numbers each (RGB)")
    ids = _ids(cfg)
    out_dir = own_folder(Path(settings.out_dir))
    # In this process first: a missing library or model is told at once, not by a worker.
    _model(settings, cfg.device)
    with lock_folder(out_dir):
        there = set() if settings.overwrite else {path.stem for path in out_dir.glob("*.png")}
        todo = [image_id for image_id in ids if image_id not in there]
        workers = 1 if uses_gpu(settings, cfg.device) else settings.workers
        data = _data(cfg)
        pairs = [(data.image(image_id), out_dir / f"{image_id}.png") for image_id in todo]
        made = sum(map_progress(partial(make_map, settings, cfg.device), pairs, workers=workers, what="saliency"))
    print(f"{made} saliency maps made in {out_dir}, {len(ids) - made} were there")
    return made


def _data(cfg: Config) -> DataFolder:
    return DataFolder.of(cfg.data, *([cfg.saliency.image_list] if cfg.saliency.image_list != ALL else []))


def _ids(cfg: Config) -> list[str]:
    data = _data(cfg)
    if cfg.saliency.image_list != ALL:
        ids = read_id_list(cfg.saliency.image_list)
        data.check_images(ids)
        return ids
    ids = data.image_ids()
    if not ids:
        raise UserError(f"{data.image_dirs[0]} holds no .jpg pictures; check data.root and data.image_dir")
    return ids


def make_map(settings: SaliencyConfig, device: str, pair: tuple[Path, Path]) -> int:
    """Make one map: `pair` is (picture, PNG to write); returns 1."""
    picture, target = pair
    write_png(target, _model(settings, device)(read_image(picture)))
    return 1


def _model(settings: SaliencyConfig, device: str) -> Predictor:
    """Return this process's model, loaded at its first picture."""
    key = f"{settings} {device}"
    if key not in _models:
        _models.clear()
        _models[key] = load_saliency_model(settings, device)
    return _models[key]


_models: dict[str, Predictor] = {}


if __name__ == "__main__":
    run_program(main)
