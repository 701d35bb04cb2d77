"""VGG-16 as the published V1 and V2 variants use it: stride 8, dilated conv5, biases, no normalisation."""

from collections import OrderedDict

from torch import nn

# Channels of layer1's convolutions, and "P<stride>" for its 3x3 max-pools.
LAYER1 = (64, 64, "P2", 128, 128, "P2", 256, 256, 256, "P2", 512, 512, 512, "P1")
LAST_CHANNELS = 512
CONV5_DILATION = 2


def vgg_trunk() -> "OrderedDict[str, nn.Module]":
    """Return layer1 (conv1 to conv4) and layer2 (conv5) by name, to be put in a row; 512 channels at stride 8 come out."""
    layer1: list[nn.Module] = []
    channels = 3
    for entry in LAYER1:
        if isinstance(entry, int):
            layer1.append(_conv(channels, entry, dilation=1))
            channels = entry
        else:
            layer1.append(nn.MaxPool2d(3, stride=int(entry[1:]), padding=1))
    layer2: list[nn.Module] = [_conv(LAST_CHANNELS, LAST_CHANNELS, dilation=CONV5_DILATION) for _ in range(3)]
    layer2.append(nn.MaxPool2d(3, stride=1, padding=1))
    return OrderedDict(layer1=nn.Sequential(*layer1), layer2=nn.Sequential(*layer2))


def _conv(channels_in: int, channels_out: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation), nn.ReLU(inplace=True))
