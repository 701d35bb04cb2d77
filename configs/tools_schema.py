"""Settings of the programs beside the pipeline: checking data, drawing CAMs, making saliency maps."""

from dataclasses import dataclass

from configs.fields import BELOW_ONE, NOT_NEGATIVE, POSITIVE, PROCESSES, SIDE, UNIT, key


@dataclass
class CheckConfig:
    out: str = key("${run_dir}/check/report.json", "report of scripts.check_data", filled=True)
    cache: str = key("${data.root}/.check_cache.jsonl", "what earlier checks found, by file size and time; empty: none")
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)
    val_lists: list[str] = key(
        ["val_cls.txt", "val_aug.txt", "val.txt"],
        "validation lists, relative to data.root; those that are there are checked, and against data.train_list for overlap",
    )


@dataclass
class ViewConfig:
    cam_dir: str = key("${cam.dir}", "folder of <id>_<class>.png, of any network", filled=True)
    out_dir: str = key(
        "${run_dir}/cam_pictures", "folder to write: <id>_<class>.png, <id>.png (all classes) and overview.png", filled=True
    )
    ids: str = key("", "images to draw, an id list; empty: all in cam_dir")
    limit: int = key(0, "most images to draw, spread evenly over the list; 0 is all", within=NOT_NEGATIVE)
    style: str = key(
        "overlay",
        "overlay: heat over the picture, with a colour bar; published: the bare jet map, stretched to its own range",
        ("overlay", "published"),
    )
    colormap: str = key("turbo", "matplotlib name of the heat's colours (style=overlay)")
    opacity: float = key(0.65, "share of the heat's colours at the maximum", within=UNIT)
    outline: float = key(
        0.0, "draw a line where a map crosses this value in (0, 1), e.g. the background threshold; 0: none", within=BELOW_ONE
    )
    overview: int = key(12, "images on overview.png; 0 writes none", within=NOT_NEGATIVE)
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)


@dataclass
class SaliencyConfig:
    model: str = key("", "an ONNX file of a salient-object network, or rembg:<name> (rembg:u2net, rembg:isnet-general-use)")
    image_list: str = key(
        "${data.train_list}", "images to make maps for: a list, or 'all' for every picture of data.image_dir", filled=True
    )
    out_dir: str = key("${data.root}/${data.saliency_dir}", "folder for 8-bit grey <id>.png of the image's size", filled=True)
    input_size: int = key(320, "side the picture is resized to, pixels, where the ONNX file leaves it open", within=SIDE)
    divide: str = key(
        "max", "max: pixels are divided by their maximum (U2-Net); 255: by 255, before mean and std", ("max", "255")
    )
    mean: list[float] = key([0.485, 0.456, 0.406], "channel means of RGB subtracted from the divided picture")
    std: list[float] = key([0.229, 0.224, 0.225], "channel standard deviations it is divided by", within=POSITIVE)
    output: int = key(0, "which output of the ONNX file is the map, 0-based", within=NOT_NEGATIVE)
    sigmoid: bool = key(False, "the output is logits: apply the logistic function")
    stretch: bool = key(True, "stretch every map to the full range (U2-Net); false: the output already lies in [0, 1]")
    workers: int = key(0, "processes; 0 is one per core, or one on a GPU", within=PROCESSES)
    overwrite: bool = key(False, "make maps that are there anew")
