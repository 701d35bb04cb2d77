"""VGG-16 trunk of the published variant: stride 8, dilated conv5, three extra convolutions."""

from torch import Tensor, nn

CHANNELS = 512
POOL4, LAST_RELU = 23, 30
INIT_STD = 0.01


class Vgg16(nn.Module):
    """torchvision's feature stack without the final pool; pool4 keeps the resolution, conv5 is dilated.

    Convolutions of the stack and `extra_convs` have biases; `extra_convs` learn at the head's rate.
    """

    stride = 8
    out_channels = CHANNELS
    side_channels = (CHANNELS, CHANNELS)
    side_dims = (64, 64)
    affinity_dim = 128
    key_prefix = ""
    head_names = {
        "classifier": "extra_last_conv",
        "side_a": "fc_extra_3",
        "side_b": "fc_extra_4",
        "affinity": "extra_att_module",
    }

    def __init__(self) -> None:
        super().__init__()
        from torchvision.models import vgg16  # here: torchvision takes as long to load as torch itself

        layers = list(vgg16(weights=None).features)[:LAST_RELU]
        layers[POOL4] = nn.MaxPool2d(3, stride=1, padding=1)
        for layer in layers[POOL4:]:
            if isinstance(layer, nn.Conv2d):
                layer.dilation, layer.padding = (2, 2), (2, 2)
        self.features = nn.Sequential(*layers)
        extra: list[nn.Module] = []
        for _ in range(3):
            extra += [nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1), nn.ReLU(inplace=True)]
        self.extra_convs = nn.Sequential(*extra)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    @property
    def stem(self) -> list[nn.Module]:
        """Return no layers: the published variant trains all of them."""
        return []

    @property
    def head_modules(self) -> list[nn.Module]:
        """Return the new layers."""
        return [self.extra_convs]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pool4 (512 channels), relu5_3 (512) and the extra convolutions' output (512) of (B, 3, H, W), stride 8."""
        side_a = self.features[: POOL4 + 1](images)
        side_b = self.features[POOL4 + 1 :](side_a)
        return side_a, side_b, self.extra_convs(side_b)
