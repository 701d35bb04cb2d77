"""VGG-16 without its classifier, dilated: one class; what distinguishes the published variants is data."""

from dataclasses import dataclass

from torch import Tensor, nn

CHANNELS = 512
INIT_STD = 0.01
# Output channels of the convolutions; a pool ends each of the five groups.
GROUPS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Where torchvision's `features` end after a group's last ReLU and after its pool.
ENDS = {"conv3": 16, "pool3": 17, "conv4": 23, "pool4": 24, "conv5": 30, "pool5": 31}
END_CHANNELS = {"conv3": 256, "pool3": 256, "conv4": CHANNELS, "pool4": CHANNELS, "conv5": CHANNELS, "pool5": CHANNELS}
EXTRA = "extra"


@dataclass(frozen=True)
class VggLayout:
    """What a VGG-16 looks like; pool4 never strides and conv5 has dilation 2. The default is the CAM network's.

    Attributes:
        pool: window of pool1 to pool3: 2 (torchvision) or 3 with padding 1 (Caffe DeepLab); pool4 and pool5 have 3.
        conv4_stride: of conv4_1; 2 (WS-FCN) gives 16 input pixels per cell, 1 gives 8.
        extra: (kernel, output channels) of further convolutions with ReLU after conv5.
        extra_names: their published names, where they are the old fc6 and fc7; else they are new and learn at the head's rate.
        dropout: Dropout2d after the first of them.
        stem: how many convolutions are usually not fine-tuned.
        outputs: features that come out, in this order: keys of `ENDS` or "extra"; the last are *the* features, those
            before it the side features.
    """

    pool: int = 2
    conv4_stride: int = 1
    extra: tuple[tuple[int, int], ...] = ((3, CHANNELS),) * 3
    extra_names: tuple[str, ...] = ()
    dropout: float = 0.0
    stem: int = 0
    outputs: tuple[str, ...] = ("pool4", "conv5", EXTRA)


CAM = VggLayout()
CAFFE = VggLayout(pool=3, extra=(), outputs=("pool5",))
# WS-FCN and 1-Stage: shallow features and those of fc6, fc7.
FULLY = VggLayout(
    pool=3, extra=((3, 1024), (1, 1024)), extra_names=("fc6", "fc7"), dropout=0.5, stem=2, outputs=("conv3", EXTRA)
)  # fmt: skip


class Vgg16(nn.Module):
    """Key names are torchvision's, so that its ImageNet weights load.

    All convolutions have biases.

    Args:
        layout: see `VggLayout`.
    """

    side_dims = (64, 64)
    affinity_dim = 128
    key_prefix = ""
    head_names = {
        "classifier": "extra_last_conv",
        "side_a": "fc_extra_3",
        "side_b": "fc_extra_4",
        "affinity": "extra_att_module",
    }
    classifier_keys = ("classifier.*", "fc8*")  # torchvision's; the fully convolutional published one's

    def __init__(self, layout: VggLayout = CAM) -> None:
        super().__init__()
        self.layout = layout
        self.features = nn.Sequential(*_features(layout))
        self.extra_convs = nn.Sequential()
        channels = CHANNELS
        for number, (kernel, width) in enumerate(layout.extra):
            self.extra_convs.extend([nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.ReLU(inplace=True)])
            if number == 0 and layout.dropout:
                self.extra_convs.append(nn.Dropout2d(layout.dropout))
            channels = width
        *sides, self.out_channels = ({**END_CHANNELS, EXTRA: channels}[name] for name in layout.outputs)
        self.side_channels = tuple(sides)
        wanted = {"conv5" if name == EXTRA else name for name in layout.outputs}
        self.last = [name for name in ENDS if name in wanted][-1]
        self.stride = 4 if layout.outputs[-1] == "conv3" else 8 * layout.conv4_stride
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    @property
    def stem(self) -> list[nn.Module]:
        """Return the first convolutions, as many as the layout says (the published CAM network trains all)."""
        convolutions: list[nn.Module] = [layer for layer in self.features if isinstance(layer, nn.Conv2d)]
        return convolutions[: self.layout.stem]

    @property
    def head_modules(self) -> list[nn.Module]:
        """Return the new layers; fc6 and fc7 are not new."""
        return [] if self.layout.extra_names else [self.extra_convs]

    def published_name(self, key: str) -> str:
        """Return an entry's name in files of the DeepLab family, conv1_1 to conv5_3, fc6 and fc7, where there are such."""
        part, index, leaf = key.split(".")
        if not self.layout.extra_names:
            return key
        if part == "extra_convs":
            return f"{self.layout.extra_names[index != '0']}.{leaf}"
        names = [f"conv{group}_{n}" for group, widths in enumerate(GROUPS, 1) for n in range(1, len(widths) + 1)]
        places = [place for place, layer in enumerate(self.features) if isinstance(layer, nn.Conv2d)]
        return f"{names[places.index(int(index))]}.{leaf}"

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features `layout.outputs` names of (B, 3, H, W) images; conv<n> is after the group's last ReLU."""
        found, x, start = {}, images, 0
        for name, end in ENDS.items():
            x = found[name] = self.features[start:end](x)
            start = end
            if name == self.last:
                break
        if EXTRA in self.layout.outputs:
            found[EXTRA] = self.extra_convs(found["conv5"])
        return tuple(found[name] for name in self.layout.outputs)


def _features(layout: VggLayout) -> list[nn.Module]:
    """Return torchvision's `features`, pooled and dilated as the layout says."""
    layers: list[nn.Module] = []
    channels = 3
    for group, widths in enumerate(GROUPS, start=1):
        dilation = 2 if group == len(GROUPS) else 1
        for number, width in enumerate(widths):
            stride = layout.conv4_stride if (group, number) == (4, 0) else 1
            layers += [nn.Conv2d(channels, width, 3, stride, dilation, dilation), nn.ReLU(inplace=True)]
            channels = width
        strided = group <= 3
        window = layout.pool if strided else 3
        layers.append(nn.MaxPool2d(window, stride=2 if strided else 1, padding=window // 3))
    return layers


# torchvision's index in `features` -> published DeepLab name; pools and ReLUs have no weights.
_CAFFE_NAMES = {
    0: "layer1.0.0", 2: "layer1.1.0", 5: "layer1.3.0", 7: "layer1.4.0", 10: "layer1.6.0", 12: "layer1.7.0", 14: "layer1.8.0",
    17: "layer1.10.0", 19: "layer1.11.0", 21: "layer1.12.0", 24: "layer2.0.0", 26: "layer2.1.0", 28: "layer2.2.0",
}  # fmt: skip


def caffe_vgg_name(key: str) -> str | None:
    """Return the published DeepLab name of one of our (torchvision's) key names; None for `classifier.*`."""
    part, index, *leaf = key.split(".")
    return f"{_CAFFE_NAMES[int(index)]}.{leaf[0]}" if part == "features" else None
