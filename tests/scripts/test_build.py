"""The wiring: settings that load early are those of the method itself."""

import pytest

from models.method import find_method
from scripts.build import LIGHT


@pytest.mark.parametrize("name", LIGHT)
def test_light_settings_are_the_methods_own(name: str) -> None:
    method = find_method(name)
    assert LIGHT[name] == (method.section or method.name, method.Settings)
