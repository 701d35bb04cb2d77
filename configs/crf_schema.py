"""Settings of the dense CRF."""

from dataclasses import dataclass

from configs.fields import BELOW_ONE, COUNT, NOT_NEGATIVE, PROCESSES, Range, key

# The lattice of smaller ones has more cells than pydensecrf can count: it crashes.
STD = Range(0.1)


@dataclass
class CrfConfig:
    """Dense CRF (Kraehenbuehl & Koltun 2011). Names and defaults are those of the published DeepLab files (set A)."""

    iter_max: int = key(10, "mean-field iterations", within=COUNT)
    pos_w: float = key(3.0, "weight of the smoothness kernel (position alone)", within=NOT_NEGATIVE)
    pos_xy_std: float = key(1.0, "its standard deviation, pixels", within=STD)
    bi_w: float = key(4.0, "weight of the appearance kernel (position and colour)", within=NOT_NEGATIVE)
    bi_xy_std: float = key(67.0, "its standard deviation of position, pixels", within=STD)
    bi_rgb_std: float = key(3.0, "its standard deviation of colour, grey levels of 255", within=STD)
    backend: str = key(
        "auto",
        "auto: torch on a GPU, else pydensecrf where it is installed, else torch; pydensecrf; torch (same labels)",
        ("auto", "pydensecrf", "torch"),
    )
    image: str = key(
        "true",
        "true: the CRF sees the picture; published: the mean-subtracted picture wrapped to 8 bits (published DeepLab)",
        ("true", "published"),
    )
    drop_below: float = key(
        0.0,
        "classes whose probability never reaches this are left out and restored after; 0 keeps all (exact), 0.05 is safe",
        within=BELOW_ONE,
    )
    workers: int = key(0, "processes, one thread each; 0 is one per core", within=PROCESSES)
