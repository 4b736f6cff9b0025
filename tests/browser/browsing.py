"""A reader's browser, and what must hold on every page it opens.

`Browser` is headless Chromium; a check looks at the page that is open and returns its findings, one
line each. `PAGE_CHECKS` hold whenever a page is opened, the others say when to call them.
"""

import functools
import importlib.metadata
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.keys import Keys

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
LABELS = ("PyTorch", "Keras")
REAL_HTML = Path(os.environ.get("MTL_TUTORIAL_HTML") or Path(__file__).parents[2] / "_build/html")
Theme = Literal["light", "dark"]


class Quiet(SimpleHTTPRequestHandler):
    """A file server that keeps the test log clean."""

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """A server that does not mind a browser which hangs up early."""

    def handle_error(self, *_: Any) -> None:
        """Say nothing: what did not arrive shows in the page."""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; give its address."""
    server = Server(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Browser:
    """Headless Chromium with a fresh profile, from which no request leaves the machine."""

    def __init__(self, chromium: str, chromedriver: str, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.binary_location = chromium
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(chromedriver))
        self.driver.set_script_timeout(120)
        self.start_script: str | None = None

    def visit(
        self, url: str, theme: Theme = "light", width: int = 1280, scripts: bool = True
    ) -> None:
        """Open a page as a reader with this theme and screen would, and wait until it is still."""
        media = [{"name": "prefers-color-scheme", "value": theme}]
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.cdp("Emulation.setEmulatedMedia", features=media)
        self.cdp("Emulation.setDeviceMetricsOverride", **screen)
        self.cdp("Emulation.setScriptExecutionDisabled", value=not scripts)
        if self.start_script:
            self.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=self.start_script)
        source = f"for (const key of ['mode', 'theme']) localStorage.setItem(key, '{theme}')"
        added = self.cdp("Page.addScriptToEvaluateOnNewDocument", source=source)
        self.start_script = added["identifier"]
        for kind in ("performance", "browser"):
            self.log(kind)  # forget the last page
        self.driver.get(url)
        if scripts:
            self.wait("(window.MathJax?.startup?.promise ?? Promise.resolve())")
            self.wait("new Promise(done => setTimeout(done, 100))")

    def cdp(self, command: str, **arguments: Any) -> Any:
        """Send a command of Chromium's own protocol."""
        return self.driver.execute_cdp_cmd(command, arguments)

    def script(self, source: str, *arguments: Any) -> Any:
        """Run JavaScript in the page."""
        return self.driver.execute_script(source, *arguments)

    def wait(self, promise: str) -> Any:
        """Wait for a JavaScript promise and return its value."""
        source = f"const done = arguments[0]; ({promise}).then(done, e => done(String(e)))"
        return self.driver.execute_async_script(source)

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Return what was logged since the last call."""
        entries: list[dict[str, Any]] = self.driver.get_log(kind)
        return entries


Check = Callable[[Browser], list[str]]


# ---------------------------------------------------------------------------- on every page


def remote_requests(browser: Browser) -> list[str]:
    """Find requests that were meant for another machine."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    urls = [
        message["params"].get("url") or message["params"]["request"]["url"]
        for message in messages
        if message["method"] in ("Network.requestWillBeSent", "Network.webSocketCreated")
    ]
    parts = {url: urlsplit(url) for url in urls}
    return [
        f"asks {part.hostname} for {url}"
        for url, part in parts.items()
        if part.scheme in ("http", "https", "ws", "wss") and part.hostname != "127.0.0.1"
    ]


def console_errors(browser: Browser) -> list[str]:
    """Find errors in the console."""
    return [entry["message"] for entry in browser.log("browser") if entry["level"] == "SEVERE"]


def raw_maths(browser: Browser) -> list[str]:
    """Find maths that a reader would see as source."""
    found: list[str] = browser.script(r"""
        const page = document.querySelector("main") ?? document.body, found = [];
        for (const formula of page.querySelectorAll(".math"))
            if (!formula.querySelector("mjx-container svg, mjx-container mjx-math"))
                found.push(`not rendered: ${formula.textContent.slice(0, 40)}`);
        const walker = document.createTreeWalker(page, NodeFilter.SHOW_TEXT);
        for (let node; (node = walker.nextNode()); )
            if (/\\\(|\\\[|\$\$/.test(node.data) && !node.parentElement.closest("pre, code, script"))
                found.push(`raw: ${node.data.trim().slice(0, 40)}`);
        if (page.querySelector("mjx-merror")) found.push("a formula has an error");
        return found""")
    return found


def missing_alt(browser: Browser) -> list[str]:
    """Find pictures without words: no alt text, or only a file name."""
    found: list[str] = browser.script(r"""
        const drawn = "svg:not([aria-hidden]):not(mjx-container svg):not(button svg):not(a svg)";
        const main = document.querySelector("main") ?? document.body;
        const bare = [...main.querySelectorAll(drawn)].filter(svg => svg.getAttribute("role")
            === "img" && !svg.getAttribute("aria-label") && !svg.querySelector("title"));
        const isName = alt => !alt.trim() || /^\S+\.(png|svg|jpe?g|gif|webp)$/i.test(alt.trim());
        const images = [...document.images].filter(image => isName(image.alt));
        return [...images.map(image => `${image.src.split("/").pop()} has alt "${image.alt}"`),
                ...bare.map(() => "an inline svg has no label")]""")
    return found


def raw_errors(browser: Browser) -> list[str]:
    """Find errors, shown on purpose, of more than two lines; and folders of the machine that built."""
    found: list[str] = browser.script(r"""
        const shown = [...document.querySelectorAll(".output.traceback pre, pre.output.traceback")], found = [];
        for (const error of shown) {
            const lines = error.textContent.split("\n").filter(line => line.trim());
            if (lines.length > 2) found.push(`an error of ${lines.length} lines: ${lines.at(-1)}`);
        }
        const text = (document.querySelector("main") ?? document.body).textContent;
        for (const [path] of text.matchAll(/\S*\/(site-packages|ipykernel_\d+|\.venv)\/\S*/g))
            found.push(`a path of the machine: ${path}`);
        return found""")
    return found


def axe_violations(browser: Browser) -> list[str]:
    """Find what axe-core calls serious or critical, in the theme and width that are on."""
    browser.script(axe_source())
    result = browser.wait("axe.run(document, {resultTypes: ['violations']})")
    if not isinstance(result, dict):
        return [f"axe-core did not run: {result}"]
    return [
        f"{violation['impact']} {violation['id']}: {violation['help']}: "
        + ", ".join(str(node["target"]) for node in violation["nodes"][:5])
        for violation in result["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


@functools.cache
def axe_source() -> str:
    """Return axe-core as it came with its Python package."""
    package = importlib.metadata.distribution("axe-selenium-python-nhsuk")
    script = package.locate_file("axe_selenium_python/node_modules/axe-core/axe.min.js")
    return Path(str(script)).read_text("utf-8")


def sideways_scroll(browser: Browser) -> list[str]:
    """Find what sticks out to the right; call it on a narrow screen."""
    found: list[str] = browser.script("""
        const page = document.scrollingElement, extra = page.scrollWidth - page.clientWidth;
        if (extra <= 0) return [];
        const wide = [...document.querySelectorAll("main *")]
            .filter(e => e.getBoundingClientRect().right > page.clientWidth + 1)
            .map(e => `${e.tagName.toLowerCase()}.${e.className}`);
        return [`scrolls sideways by ${extra} px: ${wide.slice(0, 5).join(", ")}`]""")
    return found


def light_boxes(browser: Browser) -> list[str]:
    """Find figures that stand in a light box; call it in dark mode.

    Pictures of data may, and so may the signs that fold the index of modules.
    """
    script = """
        const shown = [...document.querySelectorAll("main img:not(.only-dark, .dark-light, .toggler)")];
        const image = shown.filter(image => image.checkVisibility() && image.width > 8)[arguments[0]];
        if (!image) return null;
        image.scrollIntoView({behavior: "instant", block: "center"});
        const box = image.getBoundingClientRect();
        return [image.alt, Math.max(0, box.x) + 2, Math.max(0, box.y) + 2]"""
    found, number = [], 0
    while picture := browser.script(script, number):
        name, x, y = picture
        view = Image.open(BytesIO(browser.driver.get_screenshot_as_png())).convert("L")
        if (lightest := max(view.crop((x, y, x + 4, y + 4)).tobytes())) > 100:
            found.append(f"a light box of {lightest} of 255 behind {name!r}")
        number += 1
    return found


PAGE_CHECKS: tuple[Check, ...] = (
    remote_requests,
    console_errors,
    raw_maths,
    missing_alt,
    raw_errors,
    axe_violations,
)


# ---------------------------------------------------------------------------- framework tabs

TAB_SETS = """
    const sets = [...document.querySelectorAll(".sd-tab-set")].filter(
        set => [...set.children].some(node => ["PyTorch", "Keras"].includes(node.textContent.trim())));
    const shown = content => content.checkVisibility();
    const tabs = sets.map(set => [...set.querySelectorAll(":scope > label")].map(
        label => [label.textContent.trim(), shown(label.nextElementSibling)]));
"""


def shown_tabs(browser: Browser) -> list[dict[str, bool]]:
    """Return, for each set of framework tabs that could be seen, which contents are."""
    browser.script("for (const fold of document.querySelectorAll('details')) fold.open = true")
    return [dict(tabs) for tabs in browser.script(TAB_SETS + "return tabs")]


def out_of_step(browser: Browser, label: str) -> list[str]:
    """Find tab sets that show anything but the framework of this label."""
    return [
        f"tab set {number} shows {[name for name, visible in tabs.items() if visible]}, not {label}"
        for number, tabs in enumerate(shown_tabs(browser), 1)
        if label in tabs and tabs != {name: name == label for name in tabs}
    ]


def hidden_without_scripts(browser: Browser) -> list[str]:
    """Find tabs that nobody can open; call it on a page that was opened without scripts."""
    return [
        f"tab set {number} hides {name}"
        for number, tabs in enumerate(shown_tabs(browser), 1)
        for name, visible in tabs.items()
        if not visible
    ]


def choose(browser: Browser, label: str) -> None:
    """Click the first tab with this label, as a reader would."""
    browser.script(TAB_SETS + """
        const labels = sets.flatMap(set => [...set.children]);
        labels.find(label => label.textContent.trim() === arguments[0]).click()""", label)  # fmt: skip


def press_arrow(browser: Browser, key: str = Keys.ARROW_RIGHT) -> None:
    """Move between the tabs of the first set with the keyboard."""
    browser.script(TAB_SETS + 'sets[0].querySelector(":scope > input:checked").focus()')
    browser.driver.switch_to.active_element.send_keys(key)


def forget_choice(browser: Browser) -> None:
    """Be a new reader again."""
    browser.script("localStorage.clear(); sessionStorage.clear()")


# ---------------------------------------------------------------------------- search


def nothing_found(browser: Browser, address: str, word: str) -> list[str]:
    """Search the book for a word; find that it finds nothing."""
    browser.visit(f"{address}/search.html?q={word}")
    count = browser.wait("""new Promise(done => {
        const look = tries => {
            const found = document.querySelectorAll("#search-results ul.search li").length;
            found || !tries ? done(found) : setTimeout(look, 50, tries - 1)
        };
        look(40)})""")
    return [] if count else [f"searching for {word!r} finds nothing"]
