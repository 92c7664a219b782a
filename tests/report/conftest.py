import pytest

from helpers.browser import open_browser, why_no_browser


@pytest.fixture
def browser():
    """Give a function that opens a headless Chromium of some width; skip without one."""
    reason = why_no_browser()
    if reason is not None:
        pytest.skip(reason)
    return open_browser
