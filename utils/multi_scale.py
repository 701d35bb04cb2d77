"""The data set of CAM inference: each image at several scales."""

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image
from torch.utils.data import Dataset

from configs.schema import DataConfig
from utils.dataset_files import check_images, image_path
from utils.images import read_image
from utils.transforms import to_normalised_tensor


class MultiScaleDataset(Dataset[dict[str, Any]]):
    """Images at several scales, PIL bicubic, sides rounded half to even as published; mirrored copies are made later.

    An item holds "id": str; "size": (H, W) of the image; "classes": its class indices, ascending; "scales": one
    (3, h, w) float32 normalised RGB tensor a scale.

    Args:
        data: where the images are, and their mean and std.
        scales: factors on both sides, > 0.
        labels: id -> class indices, in the order to walk.

    Raises:
        UserError: when images are missing (at once) or damaged (when read).
    """

    def __init__(self, data: DataConfig, scales: Sequence[float], labels: Mapping[str, tuple[int, ...]]) -> None:
        self.data, self.scales, self.labels = data, tuple(scales), labels
        self.ids = list(labels)
        check_images(data, self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return item `index` of the list."""
        image_id = self.ids[index]
        image = read_image(image_path(self.data, image_id))
        scaled = [resize_scaled(image, scale) for scale in self.scales]
        return {
            "id": image_id,
            "size": (image.height, image.width),
            "classes": self.labels[image_id],
            "scales": [to_normalised_tensor(view, self.data.mean, self.data.std) for view in scaled],
        }


def resize_scaled(image: Image.Image, scale: float) -> Image.Image:
    """Return `image` with both sides multiplied by `scale`, rounded half to even, at least 1 pixel."""
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image if (width, height) == image.size else image.resize((width, height), Image.Resampling.BICUBIC)
