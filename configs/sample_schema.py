"""What a training sample is made of: the geometry, colours and maps of a view."""

from dataclasses import dataclass, field

from configs.fields import NOT_NEGATIVE, POSITIVE, SHARE, SIDE, Checked, key
from configs.paste_schema import PasteConfig

LARGEST_HUE = 0.5


@dataclass
class SampleConfig(Checked):
    """How a training sample is made: a view of the whole image, and local views of it where a method wants them.

    A method's settings (`models/method.py`) are this and its own keys. Defaults are the published sample of L2G.
    """

    input_size: int = key(448, "side of the view, pixels", within=SIDE)
    crop_size: int = key(320, "side of a local view, pixels; <= input_size", within=SIDE)
    patches: int = key(0, "local views per image; >= 4 with boxes=corners; 0: none", within=NOT_NEGATIVE)
    boxes: str = key("corners", "corners: the four corners, the rest random; random: all random", ("corners", "random"))
    resize: str = key(
        "short",
        "short: short side to short_side, then a crop; square: to input_size^2, aspect lost; stretch: to short_side^2, then a "
        "crop (localisation); area: a random part of the picture, by area_scale and aspect, to input_size^2 (WS-FCN); "
        "scale: both sides times a factor of scale_jitter, then a crop (IRN); long: long side to one of long_side, then a crop "
        "(CRT); none: a crop",
        ("short", "square", "stretch", "area", "scale", "long", "none"),
    )
    long_side: list[int] = key([210, 420], "range of the random long side, pixels (resize=long)", within=SIDE)
    area_scale: list[float] = key([0.9, 1.0], "range of that part's share of the picture (resize=area)", within=SHARE)
    aspect: list[float] = key(
        [0.75, 1.3333], "range of its width over height, drawn on a log scale (resize=area)", within=POSITIVE
    )
    short_side: int = key(512, "short side after resizing, pixels (resize=short, stretch)", within=SIDE)
    crop: str = key(
        "swapped",
        "swapped: width and height swapped, black padding (published); correct: a real random crop; top_left: that corner",
        ("swapped", "correct", "top_left"),
    )
    fill: str = key(
        "black", "colour outside of the picture: black, or mean: the mean colour, 0 once normalised", ("black", "mean")
    )
    flip: bool = key(False, "random horizontal flip (published: none)")
    scale_jitter: list[float] = key(
        [1.0, 1.0], "range of a random factor on the resized short side, or on both sides (resize=scale)", within=POSITIVE
    )
    color_jitter: list[float] = key(
        [0.3, 0.3, 0.3, 0.1], "half-ranges of brightness, contrast, saturation and hue (turns)", within=NOT_NEGATIVE
    )
    saliency: str = key("map", "map: samples hold saliency maps; none: they need not exist", ("map", "none"))
    saliency_resize: str = key("nearest", "interpolation of saliency to the view", ("nearest", "bilinear"))
    saliency_norm: str = key(
        "crop", "divide by the maximum over the cropped view (crop) or not at all (none)", ("crop", "none")
    )
    seed_dir: str = key("", "folder of label maps <id>.png, 255 unknown, that samples hold as well (irn); empty: none")
    paste: PasteConfig = field(default_factory=PasteConfig)

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        varies = len(self.scale_jitter) == 2 and self.scale_jitter[0] != self.scale_jitter[1]
        fewest = 4 if self.boxes == "corners" else 1
        return [
            (
                self.patches == 0 or self.crop_size <= self.input_size,
                f"{name}crop_size is {self.crop_size}, expected at most {name}input_size ({self.input_size})",
            ),
            (
                self.patches == 0 or self.patches >= fewest,
                f"{name}patches is {self.patches}, expected at least {fewest} (boxes={self.boxes})",
            ),
            (
                len(self.color_jitter) == 4 and self.color_jitter[3] <= LARGEST_HUE,
                f"{name}color_jitter is {self.color_jitter}, expected four numbers: brightness, contrast, saturation, and hue "
                f"up to {LARGEST_HUE}",
            ),
            (
                len(self.scale_jitter) == 2 and self.scale_jitter[0] <= self.scale_jitter[1],
                f"{name}scale_jitter needs two numbers, 0 < low <= high",
            ),
            (
                self.resize in ("short", "scale") or not varies,
                f"{name}scale_jitter is {self.scale_jitter} but {name}resize={self.resize} has no short side to vary; use "
                f"{name}resize=short or {name}scale_jitter=[1,1]",
            ),
            (
                not self.seed_dir or self.paste.mode == "none",
                f"{name}seed_dir holds labels of the pictures as they are; set {name}paste.mode=none",
            ),
            (
                len(self.long_side) == 2 and self.long_side[0] <= self.long_side[1],
                f"{name}long_side needs two numbers, low <= high",
            ),
            (
                len(self.area_scale) == 2 and self.area_scale[0] <= self.area_scale[1],
                f"{name}area_scale needs two numbers, low <= high",
            ),
            (
                len(self.aspect) == 2 and self.aspect[0] <= self.aspect[1],
                f"{name}aspect needs two numbers, low <= high",
            ),
        ]
