"""Open every page of the built book as its readers do."""

import pytest

from .browsing import (
    LABELS,
    PAGE_CHECKS,
    REAL_HTML,
    Browser,
    Check,
    axe_violations,
    choose,
    hidden_without_scripts,
    light_boxes,
    nothing_found,
    out_of_step,
    shown_tabs,
    sideways_scroll,
)

PAGES = [page.relative_to(REAL_HTML).as_posix() for page in sorted(REAL_HTML.rglob("*.html"))]
PAGES = [page for page in PAGES if not page.startswith("_")] or ["index.html"]
TABBED = [
    page
    for page in PAGES
    if (REAL_HTML / page).exists()
    and 'data-sync-group="framework"' in (REAL_HTML / page).read_text("utf-8")
]


@pytest.fixture(scope="module", params=PAGES)
def opened(request: pytest.FixtureRequest, browser: Browser, real_book: str) -> Browser:
    """Open a page once for all checks that only look."""
    browser.visit(f"{real_book}/{request.param}")
    return browser


@pytest.mark.parametrize("check", PAGE_CHECKS, ids=lambda check: check.__name__)
def test_page(check: Check, opened: Browser) -> None:
    """Nothing remote, no error, no raw maths, no picture without words, nothing unreadable."""
    assert check(opened) == []


@pytest.mark.parametrize("page", PAGES)
def test_dark_mode(browser: Browser, real_book: str, page: str) -> None:
    """Dark mode is as accessible as light mode, which is checked above, and no figure glares."""
    browser.visit(f"{real_book}/{page}", "dark")
    assert browser.script("return document.documentElement.dataset.theme") == "dark"
    assert axe_violations(browser) == []
    assert light_boxes(browser) == []


@pytest.mark.parametrize("page", PAGES)
def test_narrow_screen(browser: Browser, real_book: str, page: str) -> None:
    """A telephone scrolls in one direction only."""
    browser.visit(f"{real_book}/{page}", width=375)
    assert sideways_scroll(browser) == []


@pytest.mark.parametrize("page", TABBED)
def test_tabs_follow_the_choice(browser: Browser, real_book: str, page: str) -> None:
    """One click switches every tab of the page, and a reload keeps the choice."""
    browser.visit(f"{real_book}/{page}")
    for label in reversed(LABELS):
        choose(browser, label)
        assert out_of_step(browser, label) == []
        browser.visit(f"{real_book}/{page}")
        assert out_of_step(browser, label) == []


@pytest.mark.parametrize("page", TABBED)
def test_without_scripts(browser: Browser, real_book: str, page: str) -> None:
    """Both frameworks can be read with JavaScript off."""
    browser.visit(f"{real_book}/{page}", scripts=False)
    assert shown_tabs(browser)
    assert hidden_without_scripts(browser) == []


def test_the_book_has_tabs(real_book: str) -> None:
    """Checks of tabs that found no tabs prove nothing."""
    assert TABBED, f"no framework tabs on any page at {real_book}"


def test_search(browser: Browser, real_book: str) -> None:
    """The word that every chapter uses is found."""
    assert nothing_found(browser, real_book, "trunk") == []
