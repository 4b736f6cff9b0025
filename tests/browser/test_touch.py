"""Figures that a reader can move, moved by mouse, finger and keyboard; their numbers are the library's."""

import json
import re
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from ..book.touching import METHODS, as_json, differences, grid, library
from .browsing import PAGE_CHECKS, Browser, Theme, axe_violations, console_errors, sideways_scroll
from .conftest import Sample

GRADIENTS, WEIGHTS = ".touch-gradients", ".touch-weights"
SHAPES = """
    const names = ["d", "x1", "y1", "x2", "y2", "x", "y", "cx", "cy", "transform", "hidden", "class"];
    const shapes = [...document.querySelectorAll(".touch svg :not(.trail *), .touch td, .touch-words")];
    return shapes.map(shape => [shape.tagName, ...names.map(name => shape.getAttribute(name)),
                                shape.children.length ? "" : shape.textContent].join(" "))"""
NUMBER = re.compile(r"-?\d+\.?\d*")


@pytest.fixture
def opened(browser: Browser, sample: Sample) -> Browser:
    """Open the page with both figures."""
    browser.visit(f"{sample.address}/touch.html")
    return browser


def rows(browser: Browser) -> np.ndarray:
    """Return the gradients as a screen reader says them."""
    said: list[str] = browser.script(f"""
        const tips = document.querySelectorAll("{GRADIENTS} .tip:not([hidden]) [role=slider]");
        return [...tips].map(tip => tip.getAttribute("aria-valuetext"))""")
    words = [text.replace("−", "-").split() for text in said]
    return np.array([[float(x), float(y)] for x, _, y, _ in words])


def wrong_numbers(browser: Browser) -> list[str]:
    """Find printed weights and gains that are not the library's."""
    lines: list[Any] = browser.script(f"""
        return [...document.querySelectorAll("{GRADIENTS} tbody tr")].map(line => [line.dataset.method,
            ...[...line.querySelectorAll("td:not([hidden])")].map(cell => cell.textContent)])""")
    jacobian = rows(browser)
    lengths = np.linalg.norm(jacobian, axis=1)
    unique = np.linalg.matrix_rank(jacobian) == len(jacobian)
    found = []
    assert [name for name, *_ in lines] == list(METHODS)
    for name, *texts in lines:
        shown = [np.nan if t == "–" else float(t.replace("−", "-")) for t in texts]
        weights = library(name, jacobian)
        step = weights @ jacobian
        size = np.linalg.norm(step)
        gains = np.full(len(jacobian), np.nan)
        if size > 1e-6 * lengths.max():
            gains[lengths > 0] = (jacobian @ step)[lengths > 0] / lengths[lengths > 0] / size
        first = 0 if unique else len(weights)  # of dependent gradients, many weights give one step
        expected = [*weights, *gains][first:]
        if not np.allclose(shown[first:], expected, atol=0.00501, equal_nan=True):
            found.append(f"{name} of {jacobian.tolist()}: shows {texts}, not {expected}")
    return found


def words(browser: Browser, figure: str) -> str:
    """Return what is said after a pause."""
    browser.wait("new Promise(done => setTimeout(done, 400))")
    text: str = browser.script(
        f"return document.querySelector('{figure} .touch-words').textContent"
    )
    return text


def on_screen(browser: Browser, x: float, y: float) -> tuple[int, int]:
    """Return where a point of the plane is, after scrolling to it."""
    place = browser.script(
        f"""
        const svg = document.querySelector("{GRADIENTS} svg");
        svg.scrollIntoView({{behavior: "instant", block: "center"}});
        const point = new DOMPoint(200 + 40 * arguments[0], 220 - 40 * arguments[1]);
        const {{x, y}} = point.matrixTransform(svg.getScreenCTM());
        return [x, y]""",
        x,
        y,
    )
    return round(place[0]), round(place[1])


def drag(browser: Browser, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Press the mouse on one point, move it to another, let go."""
    (x1, y1), (x2, y2) = on_screen(browser, *start), on_screen(browser, *end)
    for kind, x, y in (
        ("mousePressed", x1, y1),
        ("mouseMoved", (x1 + x2) // 2, (y1 + y2) // 2),
        ("mouseMoved", x2, y2),
        ("mouseReleased", x2, y2),
    ):
        browser.cdp(
            "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1
        )


# ---------------------------------------------------------------------------- gradients


def test_the_script_draws_at_first_what_the_page_holds(browser: Browser, sample: Sample) -> None:
    """Two programs draw the same picture: Python the one in the page, the script all others."""
    browser.visit(f"{sample.address}/touch.html", scripts=False)
    static = browser.script(SHAPES)
    browser.visit(f"{sample.address}/touch.html")
    words(browser, WEIGHTS)
    drawn = browser.script(SHAPES)
    assert len(static) > 100
    assert [NUMBER.sub("#", shape) for shape in static] == [
        NUMBER.sub("#", shape) for shape in drawn
    ]
    for before, after in zip(static, drawn, strict=True):
        then, now = ([float(text) for text in NUMBER.findall(shape)] for shape in (before, after))
        np.testing.assert_allclose(then, now, atol=0.11, err_msg=before)  # a digit of a pixel


def test_the_script_gives_the_weights_of_the_library(opened: Browser) -> None:
    jacobians = grid()
    found = opened.script(
        """
        const all = JSON.parse(arguments[0]), methods = Object.values(gradients.methods);
        return all.map(gramian => methods.map(method => method(gramian)))""",
        as_json(jacobians),
    )
    assert differences(jacobians, found) == []


def test_three_positions_by_mouse(opened: Browser) -> None:
    """Conflict without harm, harm, exactly opposite."""
    tip = rows(opened)[1]
    for end, said in (
        ((-0.5, 1.5), "In conflict: 1 and 2. No step harms"),
        ((-3.0, 2.0), "In conflict: 1 and 2. Harmful: sum (task 1)"),
        ((-3.0, 0.0), "No step: "),
    ):
        drag(opened, tuple(tip), end)
        tip = rows(opened)[1]
        np.testing.assert_allclose(tip, end, atol=0.11)  # a pixel, and the nearest tenth
        assert wrong_numbers(opened) == []
        if end[1] != 0 or tip[1] == 0:
            assert said in words(opened, GRADIENTS)
    assert console_errors(opened) == []


def test_three_positions_by_keyboard(opened: Browser) -> None:
    """The arrow keys move the tip that has the focus, and nothing else."""
    tip = opened.driver.find_element(
        By.CSS_SELECTOR, f"{GRADIENTS} [aria-label='tip of gradient 2']"
    )
    opened.script("arguments[0].focus({preventScroll: true})", tip)
    place, other, height = rows(opened)[1], rows(opened)[0], opened.script("return scrollY")
    for held, keys, step in (
        (Keys.NULL, (Keys.ARROW_LEFT,) * 3, (-0.3, 0)),
        (Keys.SHIFT, (Keys.ARROW_DOWN,) * 2, (0, -1)),
        (Keys.NULL, (Keys.ARROW_UP, Keys.ARROW_RIGHT), (0.1, 0.1)),
    ):
        chain = ActionChains(opened.driver)
        if held == Keys.SHIFT:
            chain = chain.key_down(Keys.SHIFT)
        chain.send_keys(*keys).key_up(Keys.SHIFT).perform()
        place = place + step
        np.testing.assert_allclose(rows(opened), [other, place], atol=1e-9)
        assert wrong_numbers(opened) == []
    assert opened.script("return scrollY") == height
    assert opened.script("return document.activeElement") == tip


def test_a_finger_drags_a_tip(browser: Browser, sample: Sample) -> None:
    browser.visit(f"{sample.address}/touch.html", width=375)
    start = rows(browser)[1]
    (x1, y1), (x2, y2) = on_screen(browser, *start), on_screen(browser, -2.5, 1)
    for kind, x, y in (("touchStart", x1, y1), ("touchMove", x2, y2)):
        browser.cdp("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": x, "y": y}])
    browser.cdp("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    np.testing.assert_allclose(rows(browser)[1], [-2.5, 1], atol=0.11)
    assert wrong_numbers(browser) == []


def test_a_click_is_enough(opened: Browser) -> None:
    """Who cannot drag clicks: the nearest tip comes."""
    drag(opened, (2.0, -1.0), (2.0, -1.0))
    np.testing.assert_allclose(rows(opened)[0], [2.0, -1.0], atol=0.11)
    assert wrong_numbers(opened) == []


def test_every_choice_shows_the_numbers_of_the_library(opened: Browser) -> None:
    choice = Select(opened.driver.find_element(By.CSS_SELECTOR, f"{GRADIENTS} select"))
    names = [option.text for option in choice.options]
    assert len(names) == 8
    for name in names:
        choice.select_by_visible_text(name)
        assert wrong_numbers(opened) == []
        assert len(rows(opened)) == 2 + name.startswith("three")
    assert "In a plane three gradients" in words(opened, GRADIENTS)
    assert console_errors(opened) == []


def test_a_third_gradient_comes_and_goes(opened: Browser) -> None:
    button = opened.driver.find_element(By.CSS_SELECTOR, f"{GRADIENTS} button")
    for count, text in ((3, "Remove the third"), (2, "Add a third gradient")):
        button.click()
        assert button.text == text
        assert len(rows(opened)) == count
        assert wrong_numbers(opened) == []


def test_a_method_can_be_left_out_of_the_picture(opened: Browser) -> None:
    shown = f"""
        const arrow = document.querySelector("{GRADIENTS} svg [data-method=UPGrad]");
        return getComputedStyle(arrow).display"""
    assert opened.script(shown) == "inline"
    opened.driver.find_element(By.CSS_SELECTOR, "input[aria-label='draw UPGrad']").click()
    assert opened.script(shown) == "none"


# ---------------------------------------------------------------------------- weights


@pytest.mark.parametrize("losses", ["parcels", "Fonseca and Fleming"])
def test_three_weights_by_keyboard(opened: Browser, losses: str) -> None:
    """The slider is a native one; what is said is what NumPy finds."""
    figure = opened.driver.find_element(By.CSS_SELECTOR, WEIGHTS)
    Select(figure.find_element(By.TAG_NAME, "select")).select_by_visible_text(losses)
    tasks = json.loads(figure.get_attribute("data-touch") or "")
    slider = figure.find_element(By.CSS_SELECTOR, "input[type=range]")
    for key, count, weight in (
        (Keys.HOME, 1, 0.01),
        (Keys.ARROW_RIGHT, 19, 0.2),
        (Keys.END, 1, 0.99),
    ):
        slider.send_keys(key * count)
        said = words(opened, WEIGHTS)
        if losses == "parcels":
            place = np.linspace(0, 180, 18_001)
            table = [
                t["variance"] - t["best"] * np.cos(np.deg2rad(place - t["own"])) ** 2 for t in tasks
            ]
        else:
            place = np.linspace(-1.5, 1.5, 30_001)
            table = [1 - np.exp(-((place - own) ** 2)) for own in (1, -1)]
        best = np.dot([weight, 1 - weight], table).argmin()
        shown = [float(text) for text in re.findall(r"-?\d+\.\d+", said.replace("−", "-"))]
        expected = [weight, place[best], table[0][best], table[1][best]]
        digits = np.array([0.0051, 0.051 if losses == "parcels" else 0.0051, 0.0051, 0.0051])
        assert (np.abs(np.subtract(shown, expected)) < digits).all()
        assert slider.get_attribute("aria-valuetext") == said
    assert console_errors(opened) == []


def test_no_weight_finds_the_middle_of_a_front_that_bulges_away(opened: Browser) -> None:
    """The squares of all weights leave a gap; the parcels' do not."""
    figure = opened.driver.find_element(By.CSS_SELECTOR, WEIGHTS)
    gaps = []
    for losses in ("parcels", "Fonseca and Fleming"):
        Select(figure.find_element(By.TAG_NAME, "select")).select_by_visible_text(losses)
        figure.find_element(By.TAG_NAME, "button").click()
        places = opened.script(f"""
            return [...document.querySelectorAll("{WEIGHTS} .trail rect")].map(square =>
                Number(square.getAttribute("x")))""")
        gaps.append(max(np.diff(sorted(places))))
    assert gaps[0] < 10
    assert gaps[1] > 100


# ---------------------------------------------------------------------------- for every reader


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_page_is_clean(browser: Browser, sample: Sample, theme: Theme, width: int) -> None:
    browser.visit(f"{sample.address}/touch.html", theme, width)
    assert [finding for check in PAGE_CHECKS for finding in check(browser)] == []
    button = browser.driver.find_element(By.CSS_SELECTOR, f"{GRADIENTS} button")
    browser.script("arguments[0].click()", button)  # the widest table
    assert axe_violations(browser) == []
    if width == 375:
        assert sideways_scroll(browser) == []


def test_without_scripts(browser: Browser, sample: Sample) -> None:
    """A picture with words and a table; no control that does nothing."""
    browser.visit(f"{sample.address}/touch.html", scripts=False)
    seen = """return ["svg[role=img][aria-label]", "tbody td", "select", "button", "input", "[tabindex]"].map(
        kind => [...document.querySelectorAll(".touch " + kind)].filter(e => e.checkVisibility()).length)"""
    assert browser.script(seen) == [3, 4 * len(METHODS), 0, 0, 0, 0]
    ink = "return getComputedStyle(document.querySelector('.touch .step line')).stroke"
    assert browser.script(ink) != "none"


def test_from_a_folder(browser: Browser, sample: Sample) -> None:
    """No server: the scripts are classic ones, which load from a file."""
    browser.visit((sample.html / "touch.html").as_uri())
    choice = Select(browser.driver.find_element(By.CSS_SELECTOR, f"{GRADIENTS} select"))
    choice.select_by_visible_text("three tasks")
    assert wrong_numbers(browser) == []
    assert console_errors(browser) == []


def test_other_pages_do_not_load_the_scripts(browser: Browser, sample: Sample) -> None:
    browser.visit(f"{sample.address}/one.html")
    sources = browser.script(
        "return [...document.querySelectorAll('script[src], link')].map(e => e.src ?? e.href)"
    )
    assert not [
        source for source in sources if "touch" in str(source) or "figures.js" in str(source)
    ]
