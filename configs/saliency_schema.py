"""Settings of the program that makes saliency maps with an off-the-shelf network."""

from dataclasses import dataclass

from configs.fields import key


@dataclass
class SaliencyConfig:
    model: str = key("", "an ONNX file of a salient-object network, or rembg:<name> (rembg:u2net, rembg:isnet-general-use)")
    image_list: str = key("${data.train_list}", "images to make maps for: a list, or 'all' for every picture of data.image_dir")
    out_dir: str = key("${data.root}/${data.saliency_dir}", "folder for 8-bit grey <id>.png of the image's size")
    input_size: int = key(320, "side the picture is resized to, pixels, where the ONNX file leaves it open")
    divide: str = key(
        "max", "max: pixels are divided by their maximum (U2-Net); 255: by 255, before mean and std", ("max", "255")
    )
    mean: list[float] = key([0.485, 0.456, 0.406], "channel means of RGB subtracted from the divided picture")
    std: list[float] = key([0.229, 0.224, 0.225], "channel standard deviations it is divided by")
    output: int = key(0, "which output of the ONNX file is the map, 0-based")
    sigmoid: bool = key(False, "the output is logits: apply the logistic function")
    stretch: bool = key(True, "stretch every map to the full range (U2-Net); false: the output already lies in [0, 1]")
    workers: int = key(0, "processes; 0 is one per core, or one on a GPU")
    overwrite: bool = key(False, "make maps that are there anew")
