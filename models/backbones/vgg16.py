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
        extra_convs: new 3x3 convolutions with ReLU after conv5, which learn at the head's rate.
        stem: how many convolutions are usually not fine-tuned.
        outputs: features that come out, in this order: keys of `ENDS` or "extra"; the last are *the* features, those
            before it the side features.
    """

    pool: int = 2
    conv4_stride: int = 1
    extra_convs: int = 3
    stem: int = 0
    outputs: tuple[str, ...] = ("pool4", "conv5", EXTRA)


CAM = VggLayout()
CAFFE = VggLayout(pool=3, extra_convs=0, outputs=("pool5",))


class Vgg16(nn.Module):
    """Key names are torchvision's, so that its ImageNet weights load (allow `classifier.*` as unexpected).

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

    def __init__(self, layout: VggLayout = CAM) -> None:
        super().__init__()
        self.layout = layout
        self.features = nn.Sequential(*_features(layout))
        self.extra_convs = nn.Sequential()
        for _ in range(layout.extra_convs):
            self.extra_convs.extend([nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(inplace=True)])
        *sides, self.out_channels = (END_CHANNELS.get(name, CHANNELS) for name in layout.outputs)
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
        """Return the new layers."""
        return [self.extra_convs]

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
