"""Fill the templates of a report and write the page."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from utils.classes import palette
from utils.files import write_text_atomic
from utils.report_overview import duration

TEMPLATES = Path(__file__).with_name("report_templates")


def write_page(template: str, path: Path, context: Mapping[str, Any]) -> None:
    """Render `utils/report_templates/<template>` into one HTML file; all text in `context` is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Scores stand in the order of the pipeline, on which the page's "last stage" relies.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters["duration"] = duration
    written = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    text = environment.get_template(template).render(written=written, **context)
    write_text_atomic(path, text + "\n")


def label_css_colours(names: Sequence[str]) -> list[str]:
    """Return the CSS colour of each label value, as label maps are drawn."""
    colours = palette()
    return [f"rgb({colours[3 * v]} {colours[3 * v + 1]} {colours[3 * v + 2]})" for v in range(len(names))]
