"""Settings of the pictures scripts.visualize_cam draws."""

from dataclasses import dataclass

from configs.fields import key


@dataclass
class ViewConfig:
    cam_dir: str = key("${cam.dir}", "folder of <id>_<class>.png, of any network")
    out_dir: str = key("${run_dir}/cam_pictures", "folder to write: <id>_<class>.png, <id>.png (all classes) and overview.png")
    ids: str = key("", "images to draw, an id list; empty: all in cam_dir")
    limit: int = key(0, "most images to draw, spread evenly over the list; 0 is all")
    style: str = key(
        "overlay",
        "overlay: heat over the picture, with a colour bar; published: the bare jet map, stretched to its own range",
        ("overlay", "published"),
    )
    colormap: str = key("turbo", "matplotlib name of the heat's colours (style=overlay)")
    opacity: float = key(0.65, "share of the heat's colours at the maximum, in [0, 1]")
    outline: float = key(0.0, "draw a line where a map crosses this value in (0, 1), e.g. the background threshold; 0: none")
    overview: int = key(12, "images on overview.png; 0 writes none")
    workers: int = key(0, "processes; 0 is one per core")

    def rules(self) -> list[tuple[bool, str]]:
        """Return (holds, message) of the relations between values."""
        return [
            (0 <= self.opacity <= 1, f"view.opacity is {self.opacity}, expected in [0, 1]"),
            (0 <= self.outline < 1, f"view.outline is {self.outline}, expected in [0, 1)"),
            (
                min(self.limit, self.overview, self.workers) >= 0,
                "view.limit, view.overview and view.workers must not be negative",
            ),
        ]
