"""What the whole test run says at its end, and what all tests may share."""

from collections.abc import Iterator

import pytest

from tests.warm_python import serving

BROWSER_TESTS = "test_report_browser.py"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Say in the last line that the report was not tried in a browser, if it was to be: a skipped test is easily overlooked."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter and not hasattr(config, "workerinput") else []
    without = sum(BROWSER_TESTS in report.nodeid for report in skipped)
    if without:
        print(f"NOT TRIED IN A BROWSER: {without} tests of the report need Chromium or Chrome on PATH, or CHROMIUM=its path")


@pytest.fixture
def forgets_tensors() -> Iterator[None]:
    """Empty the program's caches behind a test that computes without values: a later one would meet its tensors in them."""
    from tests.gpu.fake_gpu import forget_tensors

    yield
    forget_tensors()


@pytest.fixture(scope="session")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the path of a Python whose programs start at once, see `tests.warm_python`."""
    with serving(tmp_path_factory.mktemp("python")) as path:
        yield path
