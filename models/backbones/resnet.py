"""ResNet-101 trunk: torchvision's network with dilation instead of its last strides."""

from torch import Tensor, nn

DILATED_STAGES = {8: [False, True, True], 16: [False, False, True], 32: [False, False, False]}


class ResNet101(nn.Module):
    """Key names are torchvision's, so that its ImageNet weights load (allow `fc.*` as unexpected).

    Args:
        output_stride: 8, 16 or 32 input pixels per cell.
    """

    out_channels = 2048
    side_channels = (512, 1024)
    side_dims = (64, 128)
    affinity_dim = 192
    key_prefix = ""
    head_names: dict[str, str] = {}

    def __init__(self, output_stride: int = 8) -> None:
        super().__init__()
        if output_stride not in DILATED_STAGES:
            raise ValueError(f"model.output_stride is {output_stride}, expected one of {list(DILATED_STAGES)} for resnet101")
        from torchvision.models import resnet101  # here: torchvision takes as long to load as torch itself

        self.stride = output_stride
        network = resnet101(weights=None, replace_stride_with_dilation=DILATED_STAGES[output_stride])
        for name, module in network.named_children():
            if name not in ("avgpool", "fc"):
                self.add_module(name, module)

    @property
    def stem(self) -> list[nn.Module]:
        """Return what is usually not fine-tuned: the first convolution and the first stage."""
        return [self.get_submodule(name) for name in ("conv1", "bn1", "layer1")]

    @property
    def head_modules(self) -> list[nn.Module]:
        """Return no layers: all new ones are in the head."""
        return []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return layer2 (512 channels), layer3 (1024) and layer4 (2048) of (B, 3, H, W) images."""
        x = images
        outputs = {}
        for name, module in self.named_children():
            x = module(x)
            outputs[name] = x
        return outputs["layer2"], outputs["layer3"], outputs["layer4"]
