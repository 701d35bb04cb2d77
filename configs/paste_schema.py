"""Settings of pasting foreground cut-outs into training images, and of making the bank they come from."""

from dataclasses import dataclass

from configs.fields import COUNT, GREY, NOT_NEGATIVE, POSITIVE, PROCESSES, SHARE, UNIT, Checked, key


@dataclass
class PasteConfig(Checked):
    """Context decoupling (CDA, ICCV 2021): an object of a class the image does not hold is pasted into it.

    Defaults are the published values (`mode` aside, which is off).
    """

    mode: str = key(
        "none",
        "none; pair: each step sees every image twice, with a pasted object and as it is (published); replace: pasted only",
        ("none", "pair", "replace"),
    )
    bank: str = key("", "folder scripts.make_foreground_bank wrote")
    from_epoch: int = key(0, "0-based epoch pasting begins with", within=NOT_NEGATIVE)
    probability: float = key(1.0, "chance that an image gets objects", within=UNIT)
    number: int = key(1, "objects pasted into an image", within=COUNT)
    classes: str = key("absent", "absent: only classes the image does not hold; any: all in the bank", ("absent", "any"))
    only: list[int] = key([], "classes (0-based) to paste; empty: all the bank holds", within=NOT_NEGATIVE)
    fit: float = key(0.7, "larger objects are first shrunk to this share of the image's height and width", within=SHARE)
    scale: list[float] = key(
        [0.8, 1.2], "range of the random factor on that size; its upper end times fit is at most 1", within=POSITIVE
    )
    attempts: int = key(
        10, "places tried; the first with little overlap is taken, else the one with least; 1 is plain CDA", within=COUNT
    )
    overlap: float = key(0.2, "accepted share of the object on salient pixels of the image", within=UNIT)
    salient: int = key(200, "pixels more salient than this (of 255) are pasted, and count as overlap", within=GREY)
    leak_labels: bool = key(
        False,
        "pair: the image as it is also gets the pasted class in its global label (published by mistake); local ones are right",
    )
    swap_background: bool = key(False, "pasted images have red and blue of their background swapped (published by mistake)")

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        largest = self.fit * max(self.scale, default=0.0)
        ordered = len(self.scale) == 2 and self.scale[0] <= self.scale[1]
        return [
            (self.mode == "none" or bool(self.bank), f"{name}mode is {self.mode}, which needs {name}bank"),
            (ordered, f"{name}scale is {self.scale}, expected two numbers, 0 < low <= high"),
            (largest <= 1, f"{name}fit times the upper end of {name}scale is {largest:g}, expected in (0, 1]"),
            (not self.leak_labels or self.mode != "replace", f"{name}leak_labels needs {name}mode=pair"),
        ]


@dataclass
class BankConfig(Checked):
    """Which objects of an earlier run's result are good enough to be pasted elsewhere."""

    dir: str = key(
        "${run_dir}/foreground_bank", "folder to write: <class>/<id>.png with alpha, index.json, contact_sheet.png", filled=True
    )
    source: str = key("cams", "cams: class maps against a threshold; labels: pseudo-label maps", ("cams", "labels"))
    cam_dir: str = key("${cam.dir}", "source=cams: folder of <id>_<class>.png", filled=True)
    label_dir: str = key("${pseudo.out_dir}", "source=labels: folder of <id>.png", filled=True)
    threshold: float = key(0.35, "source=cams: background score (published)", within=UNIT)
    single_class: bool = key(True, "only images whose map holds one class (published)")
    share: list[float] = key([0.1, 0.7], "smallest and largest share of the image an object may cover (published)", within=UNIT)
    connected: float = key(
        0.8,
        "share of the object its largest connected piece must hold; other pieces are left out. 0 keeps all (published)",
        within=UNIT,
    )
    min_score: float = key(0.5, "source=cams: mean class score an object needs; published: 0", within=UNIT)
    min_salient: float = key(
        0.5,
        "share of the object that must be more salient than l2g.paste.salient (only that is pasted); published: 0",
        within=UNIT,
    )
    max_per_class: int = key(0, "objects kept of a class, the best scores first; 0 is all", within=NOT_NEGATIVE)
    workers: int = key(0, "processes; 0 is one per core", within=PROCESSES)

    def rules(self, name: str = "") -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        shares = len(self.share) == 2 and self.share[0] <= self.share[1]
        return [(shares, f"{name}share is {self.share}, expected two numbers, 0 <= low <= high <= 1")]
