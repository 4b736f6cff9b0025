"""What needs a book of two pages, and each check on a page that is broken on purpose."""

import pytest
from selenium.webdriver.common.keys import Keys

from .browsing import (
    LABELS,
    PAGE_CHECKS,
    Browser,
    Check,
    Theme,
    axe_violations,
    choose,
    console_errors,
    forget_choice,
    hidden_without_scripts,
    light_boxes,
    missing_alt,
    nothing_found,
    out_of_step,
    press_arrow,
    raw_errors,
    raw_maths,
    remote_requests,
    shown_tabs,
    sideways_scroll,
)
from .conftest import Sample

PYTORCH, KERAS = LABELS


@pytest.fixture
def new_reader(browser: Browser, sample: Sample) -> Browser:
    """Open the first page as a reader who has not chosen yet."""
    browser.visit(f"{sample.address}/one.html")
    forget_choice(browser)
    browser.visit(f"{sample.address}/one.html")
    return browser


# ---------------------------------------------------------------------------- two good pages


@pytest.mark.parametrize("page", ["one", "two"])
def test_good_page_passes(browser: Browser, sample: Sample, page: str) -> None:
    """Else the broken pages below could be red for another reason."""
    browser.visit(f"{sample.address}/{page}.html")
    assert [finding for check in PAGE_CHECKS for finding in check(browser)] == []
    assert browser.script("return document.querySelectorAll('mjx-container').length") >= 4
    browser.visit(f"{sample.address}/{page}.html", "dark")
    assert axe_violations(browser) == []
    assert light_boxes(browser) == []
    browser.visit(f"{sample.address}/{page}.html", width=375)
    assert sideways_scroll(browser) == []


def test_choice_holds_everywhere(new_reader: Browser, sample: Sample) -> None:
    """One click switches every tab; a reload and another page keep it."""
    assert shown_tabs(new_reader) == [{PYTORCH: True, KERAS: False}] * 2
    choose(new_reader, KERAS)
    assert shown_tabs(new_reader) == [{PYTORCH: False, KERAS: True}] * 2
    for page in ("one", "two"):
        new_reader.visit(f"{sample.address}/{page}.html")
        assert shown_tabs(new_reader) == [{PYTORCH: False, KERAS: True}] * 2


def test_arrow_keys(new_reader: Browser) -> None:
    """The keyboard switches as the mouse does."""
    press_arrow(new_reader)
    assert shown_tabs(new_reader) == [{PYTORCH: False, KERAS: True}] * 2
    press_arrow(new_reader, Keys.ARROW_LEFT)
    assert shown_tabs(new_reader) == [{PYTORCH: True, KERAS: False}] * 2


def test_without_scripts(browser: Browser, sample: Sample) -> None:
    """With JavaScript off both frameworks are shown."""
    browser.visit(f"{sample.address}/one.html", scripts=False)
    assert shown_tabs(browser) == [{PYTORCH: True, KERAS: True}] * 2


def test_search(browser: Browser, sample: Sample) -> None:
    """A word of the book is found, any other is not."""
    assert nothing_found(browser, sample.address, "trunk") == []
    assert nothing_found(browser, sample.address, "zyzzyva") == [
        "searching for 'zyzzyva' finds nothing"
    ]


# ---------------------------------------------------------------------------- broken on purpose

INSERTED: list[tuple[Check, str, Theme, str]] = [
    (
        remote_requests,
        "<img alt='A trunk' src='https://example.org/t.png'>",
        "light",
        "example.org",
    ),
    (
        remote_requests,
        "<script>new WebSocket('wss://example.org')</script>",
        "light",
        "example.org",
    ),
    (console_errors, "<script>console.error('dead head')</script>", "light", "dead head"),
    (console_errors, "<script>undefined.trunk</script>", "light", "TypeError"),
    (console_errors, "<script src='none.js'></script>", "light", "404"),
    (raw_maths, r"<p class='mathjax_ignore'>The loss \(L\)</p>", "light", r"raw: The loss \(L\)"),
    (raw_maths, "<p class='mathjax_ignore'>The loss $$L$$</p>", "light", "raw: The loss $$L$$"),
    (raw_maths, "<span class='math tex2jax_ignore'>L_1</span>", "light", "not rendered: L_1"),
    (raw_maths, r"<p>The square \(x^2^3\)</p>", "light", "formula has an error"),
    (missing_alt, "<img src='_static/favicon.svg' alt=' '>", "light", 'favicon.svg has alt " "'),
    (missing_alt, "<img src='_static/favicon.svg' alt='a/b.svg'>", "light", 'alt "a/b.svg"'),
    (missing_alt, "<img src='_static/favicon.svg'>", "light", 'favicon.svg has alt ""'),
    (missing_alt, "<svg role='img'></svg>", "light", "inline svg has no label"),
    (
        raw_errors,
        "<pre class='output traceback'>----> 1 f(0)\nin f(x)\n\nValueError: x is 0</pre>",
        "light",
        "an error of 3 lines: ValueError: x is 0",
    ),
    (
        raw_errors,
        "<pre>File ~/env/lib/site-packages/<b>torch/nn.py</b>:3</pre>",
        "light",
        "a path of the machine: ~/env/lib/site-packages/torch/nn.py:3",
    ),
    (raw_errors, "<p>/tmp/ipykernel_7/8.py:1: UserWarning</p>", "light", "/tmp/ipykernel_7/8.py"),
    (axe_violations, "<p style='color:#ccc;background:#fff'>Pale</p>", "light", "color-contrast"),
    (axe_violations, "<p style='color:#333'>Dark on dark</p>", "dark", "color-contrast"),
    (axe_violations, "<button></button>", "light", "button-name"),
    (sideways_scroll, "<div style='width:2000px'>Wide</div>", "light", "sideways by"),
]


@pytest.mark.parametrize(
    ("check", "html", "theme", "message"),
    INSERTED,
    ids=[f"{check.__name__}-{number}" for number, (check, *_) in enumerate(INSERTED)],
)
def test_broken_page_is_found(
    *, browser: Browser, sample: Sample, check: Check, html: str, theme: Theme, message: str
) -> None:
    """Run the check of the real book on a copy of a good page with one thing added."""
    address = sample.broken("</article>", f"{html}</article>")
    browser.visit(address, theme, width=375 if check is sideways_scroll else 1280)
    findings = check(browser)
    print(*findings, sep="\n")
    assert [finding for finding in findings if message in finding]


def test_dark_text_is_fine_in_light_mode(browser: Browser, sample: Sample) -> None:
    """Only the dark theme shows that a text is too dark: both themes must be looked at."""
    browser.visit(sample.broken("</article>", "<p style='color:#333'>Dark on dark</p></article>"))
    assert axe_violations(browser) == []


def test_maths_without_mathjax_is_found(browser: Browser, sample: Sample) -> None:
    """Without MathJax every formula stays source."""
    browser.visit(sample.broken("_static/mathjax/", "_static/nowhere/"))
    assert "not rendered: \\(\\theta\\)" in raw_maths(browser)


def test_tabs_out_of_step_are_found(new_reader: Browser, sample: Sample) -> None:
    """Tabs without the shared group do not follow a click."""
    new_reader.visit(sample.broken('data-sync-group="framework"', ""))
    choose(new_reader, KERAS)
    assert out_of_step(new_reader, KERAS) == ["tab set 2 shows ['PyTorch'], not Keras"]


def test_tabs_hidden_without_scripts_are_found(browser: Browser, sample: Sample) -> None:
    """Without the noscript style only the first tab can be read."""
    browser.visit(
        sample.broken("<noscript><style>", "<noscript><style media='print'>"), scripts=False
    )
    assert hidden_without_scripts(browser) == ["tab set 1 hides Keras", "tab set 2 hides Keras"]


def test_a_figure_in_a_light_box_is_found(browser: Browser, sample: Sample) -> None:
    """Without our styles the theme puts a light box behind a transparent figure."""
    browser.visit(sample.broken("_static/book.css", "_static/none.css"), "dark")
    (found,) = light_boxes(browser)
    assert found.endswith("behind 'A line that falls and rises'")


def test_a_figure_has_no_ground_of_its_own(browser: Browser, sample: Sample) -> None:
    """Its corner is empty, so what is behind it shows in either theme."""
    browser.visit(f"{sample.address}/one.html")
    opacity = browser.wait("""(async () => {
        const image = document.querySelector("main .cell_output img"), canvas = new OffscreenCanvas(1, 1);
        const context = canvas.getContext("2d");
        context.drawImage(await createImageBitmap(image, 0, 0, 1, 1), 0, 0);
        return context.getImageData(0, 0, 1, 1).data[3]})()""")
    assert opacity == 0


def test_a_picture_of_data_keeps_a_white_ground_in_dark_mode(
    browser: Browser, sample: Sample
) -> None:
    """Its titles are in black ink, which nothing inverts."""
    browser.visit(f"{sample.address}/one.html", "dark")
    style = browser.script("""
        const image = document.querySelector("main .cell_output img");
        image.classList.add("dark-light");
        const style = getComputedStyle(image);
        return [style.backgroundColor, style.filter]""")
    assert style == ["rgb(255, 255, 255)", "none"]


def test_folded_code_says_what_a_click_does(browser: Browser, sample: Sample) -> None:
    browser.visit(f"{sample.address}/one.html")
    words = "return document.querySelector('details.hide > summary').innerText"
    assert browser.script(words) == "Show the code"
    browser.script("document.querySelector('details.hide > summary').click()")
    assert browser.script(words) == "Hide the code"
