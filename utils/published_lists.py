"""Facts about the published image lists, to compare re-derived ones with: SHA-1 sums and images per class."""

import hashlib

# SHA-1 of the files as published, by set and file name.
PUBLISHED_SHA1 = {
    "voc12": {
        "train_cls.txt": "e2f3e9aeb45811da44d6357959d168f30c11b290",
        "val_cls.txt": "e363dd72bcc618c571e3a25306cac1f0749f740f",
        "train_aug.txt": "cefdb50466c397ec88fc018d3a87172478e4ec1e",
    },
    "coco14": {
        "train_cls.txt": "58b9bb716124b6f24c0ae241d35b2f65f9dcff9c",
        "val_cls.txt": "70f6b4bc76946bd5d675162d4d3c182e28fd6cb9",
    },
}

PUBLISHED_LINES = {
    "voc12": {"train_cls.txt": 10582, "val_cls.txt": 1449, "train_aug.txt": 10582, "train.txt": 1464, "val_aug.txt": 1449},
    "coco14": {"train_cls.txt": 82081, "val_cls.txt": 40137, "val.txt": 40137},
}

# Images per class, in the order of the class indices.
PUBLISHED_COUNTS: dict[str, dict[str, tuple[int, ...]]] = {
    "voc12": {
        "train_cls.txt": (
            586, 486, 698, 461, 654, 385, 1086, 1000, 1081, 264, 528, 1177, 444, 482, 3898, 487, 299, 491, 500, 548,
        ),
    },
    "coco14": {
        "train_cls.txt": (
            45061, 2280, 8600, 2440, 2241, 2790, 2463, 4317, 2096, 2892, 1205, 1213, 480, 3842, 2215, 2641, 2879, 2062, 1099,
            1385, 1516, 667, 1324, 1797, 3885, 2742, 4791, 1695, 1618, 1498, 2209, 1168, 2712, 1624, 1795, 1853, 2511, 2343,
            2360, 5801, 1734, 6326, 2266, 2875, 2268, 4800, 1541, 1104, 1428, 1145, 1189, 1059, 766, 2037, 978, 1955, 8938,
            3168, 3082, 2537, 8375, 2317, 3181, 2452, 1255, 2135, 1461, 2517, 1082, 2003, 151, 3288, 1671, 3697, 3101, 2510,
            656, 1468, 128, 594,
        ),
        "val_cls.txt": (
            21585, 1110, 4173, 1219, 838, 1349, 1281, 2055, 1048, 1437, 592, 588, 260, 1961, 1108, 1382, 1435, 996, 488, 664,
            711, 341, 677, 848, 1804, 1391, 2244, 797, 874, 747, 993, 533, 1324, 727, 794, 829, 1092, 1291, 1190, 2825, 852,
            2963, 1041, 1281, 1087, 2278, 684, 452, 721, 531, 600, 524, 412, 1030, 491, 899, 4396, 1447, 1540, 1292, 3960,
            1185, 1575, 1227, 654, 1013, 745, 1320, 508, 989, 74, 1573, 790, 1798, 1675, 1193, 291, 712, 69, 275,
        ),
    },
}  # fmt: skip


def sha1_matches(dataset: str, name: str, content: bytes) -> bool | None:
    """Return whether a list's content is the published one byte for byte; None where no sum is known.

    Args:
        dataset: "voc12" or "coco14".
        name: file name, e.g. "train_cls.txt".
        content: the file's bytes.
    """
    expected = PUBLISHED_SHA1.get(dataset, {}).get(name)
    # Not for security: it is what the published files are known by.
    return None if expected is None else hashlib.sha1(content, usedforsecurity=False).hexdigest() == expected
