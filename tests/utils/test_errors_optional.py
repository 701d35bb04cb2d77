"""Optional libraries: imported when there, one sentence with the pip command when not."""

import pytest

from utils.errors import UserError, import_optional


def test_a_present_library_is_returned() -> None:
    assert import_optional("json", "json", "this test").loads("1") == 1


def test_a_missing_library_names_the_command() -> None:
    with pytest.raises(UserError, match="reading x needs the package some-package .* python -m pip install some-package$"):
        import_optional("no_such_module_here", "some-package", "reading x")
