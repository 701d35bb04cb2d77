"""The segmentation stage's configuration: its schema, with the sections of the refiners it names."""

from collections.abc import Mapping
from typing import Any

from configs.deeplab_schema import DeepLabConfig
from configs.fields import compose
from models.refiners import refiner_sections
from utils.config import parse_schema_args


def deeplab_schema(content: Mapping[str, Any]) -> type[DeepLabConfig]:
    """Return the schema for a configuration's raw content."""
    return compose(DeepLabConfig, refiner_sections([content.get("refine")]))


def parse_args(argv: list[str], doc: str) -> DeepLabConfig:
    """Turn `--config-path FILE [key=value ...]` into a checked configuration; see `utils.config.parse_schema_args`."""
    return parse_schema_args(argv, doc, deeplab_schema)
