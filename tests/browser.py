"""Chromium without a window, driven by Debian's packages chromium and chromium-driver.

chromedriver speaks JSON over HTTP (the W3C's WebDriver), so no Python package is
needed for it.
"""

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # how WebDriver marks an element
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage")
OPTIONS += ("--window-size=1300,1250", "--no-proxy-server")
MISSING = "install Debian's chromium and chromium-driver: apt-get install -y NAME NAME"


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def started():
    """A Browser, which is ended at last."""
    driver = shutil.which("chromedriver")
    assert driver, MISSING
    port = free_port()
    process = subprocess.Popen(
        [driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    browser = Browser(f"http://127.0.0.1:{port}")
    try:
        browser.begin()
        yield browser
    finally:
        browser.end()
        process.terminate()
        process.wait()


def until(found, patience=120):
    """The first value of found() that is true; AssertionError after some seconds."""
    end = time.monotonic() + patience
    while not (value := found()):
        assert time.monotonic() < end, f"{found} came to nothing in {patience} s"
        time.sleep(0.1)
    return value


class Browser:
    """One page at a time; elements are named by CSS selectors."""

    def __init__(self, address):
        self._address, self._session = address, ""

    def _ask(self, path, told=None, method="POST"):
        data = None if method != "POST" else json.dumps(told or {}).encode()
        url = f"{self._address}{self._session}{path}"
        request = urllib.request.Request(url, data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from error

    def begin(self):
        def ready():
            with contextlib.suppress(urllib.error.URLError):
                return self._ask("/status", method="GET")["ready"]

        until(ready, 30)
        wanted = {"goog:chromeOptions": {"args": OPTIONS}}
        wanted |= {"goog:loggingPrefs": {"browser": "ALL"}}
        made = self._ask("/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{made['sessionId']}"

    def end(self):
        if self._session:
            self._ask("", method="DELETE")

    def open(self, url):
        self._ask("/url", {"url": url})

    def run(self, script, *arguments):
        """What a piece of JavaScript returns."""
        return self._ask("/execute/sync", {"script": script, "args": arguments})

    def log(self):
        """The console's lines since this was asked for last: {level, message}."""
        return self._ask("/se/log", {"type": "browser"})

    def picture(self):
        """The bytes of a PNG of what is seen."""
        return base64.b64decode(self._ask("/screenshot", method="GET"))

    def _element(self, selector):
        told = {"using": "css selector", "value": selector}
        return f"/element/{self._ask('/element', told)[ELEMENT]}"

    def click(self, selector):
        self._ask(f"{self._element(selector)}/click")

    def type(self, selector, text):
        """Types into a field in place of what it says; a file's field takes a path."""
        element = self._element(selector)
        if 'type="file"' not in selector and "type=file" not in selector:
            self._ask(f"{element}/clear")
        self._ask(f"{element}/value", {"text": str(text)})

    def texts(self, selector):
        """What each of the elements says."""
        script = (
            "return [...document.querySelectorAll(arguments[0])].map(x=>x.innerText)"
        )
        return self.run(script, selector)

    def widths(self, selector):
        """The width in pixels of each picture's file, of those that have come."""
        return [width for width in self._all(selector, "naturalWidth") if width]

    def _all(self, selector, name):
        found = "[...document.querySelectorAll(arguments[0])]"
        return self.run(f"return {found}.map(x => x[arguments[1]])", selector, name)
