"""The web page in a browser: `-m web`, after requirements-web.txt and a Chromium."""

import contextlib
import json
import os
import pathlib
import signal
import tempfile
import urllib.error
import urllib.request

import browser as browser_lib
import commands
from PIL import Image
import pytest

from ldm_jax.data import datasets, hints

pytestmark = pytest.mark.web

TOLD = "[data-testid=toast-body]"
SIDE = 64  # of the embedded model's pictures
CLEAR = "#picture button[aria-label='Remove Image'], #picture button[aria-label=Clear]"


def answer(url, told=None):
    """The bytes of an answer, past any proxy."""
    data = None if told is None else json.dumps(told).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as found:
        return found.read()


@contextlib.contextmanager
def served():
    """(address, process, wait) of the command on a free port, once it answers."""
    port = browser_lib.free_port()
    address = f"http://127.0.0.1:{port}"

    with commands.started("ldm_jax.demo", f"--port={port}") as (process, wait):

        def ready():
            assert process.poll() is None, wait()
            with contextlib.suppress(urllib.error.URLError):
                return answer(address)

        browser_lib.until(ready)
        yield address, process, wait
        process.terminate()
        wait()


@pytest.fixture(scope="module")
def address():
    with served() as (address, _, _):
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browser_lib.started() as chromium:
        yield chromium


@pytest.fixture
def page(chromium, address):
    """The page as it is when it is opened."""
    chromium.log()
    chromium.open(address)
    browser_lib.until(lambda: chromium.texts("#draw"))
    return chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture, its edges, what is wrong with such files."""
    folder = tmp_path_factory.mktemp("web")
    scene = datasets.DRAWN["emoji_scenes"]("heldout", 0, 256)[0]["image"]
    edges = hints.canny(scene)
    shown = {"photo": scene, "edges": edges, "inverted": 255 - edges}
    for name, image in shown.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    (folder / "corrupt.png").write_bytes(b"no picture")
    return folder


def upload(page, path):
    page.type("#picture input[type=file]", path)


def drawn(page):
    """The seed, once there are other pictures than before."""
    seed = "return document.querySelector('#drawn_seed textarea, #drawn_seed input')"
    before = page.run(f"{seed}.value")
    page.click("#draw")

    def after():
        told = page.run(f"{seed}.value")
        return told if told not in ("", before) else ""

    return int(browser_lib.until(after))


def errors(page):
    return [line for line in page.log() if line["level"] == "SEVERE"]


def told(page, words):
    """Waits for the page to say it."""
    browser_lib.until(lambda: words in " ".join(page.texts(TOLD)))


def test_the_page_comes_without_an_error(page):
    browser_lib.until(lambda: page.widths("#examples img") == [SIDE, SIDE])
    assert not errors(page)
    assert page.texts("#hint") and not page.widths("#hint img")


def test_a_prompt_becomes_pictures(page):
    page.type("#prompt textarea", "a fox on snow")
    assert 0 <= drawn(page) < 2**31
    browser_lib.until(lambda: page.widths("#gallery img") == [SIDE] * 4)
    assert not errors(page)


def test_an_example_is_drawn_and_its_hint_comes_first(page):
    page.click("#examples tbody tr")
    browser_lib.until(lambda: page.widths("#hint img") == [SIDE])
    drawn(page)
    browser_lib.until(lambda: page.widths("#gallery img") == [SIDE] * 5)
    first, *rest = page.texts("#gallery .thumbnail-item")
    assert first == "hint" and rest == ["0", "1", "2", "3"]


def test_an_uploaded_hint_is_shown_as_the_model_gets_it(page, folder):
    upload(page, folder / "edges.png")
    browser_lib.until(lambda: page.widths("#hint img") == [SIDE])
    page.click(CLEAR)
    browser_lib.until(lambda: not page.widths("#hint img"))


def test_edges_are_found_by_thresholds_that_are_seen_only_then(page, folder):
    seen = "return document.querySelector('#low')?.offsetParent != null"
    assert not page.run(seen)
    page.run("document.querySelector('#way input[value=find]').click()")
    browser_lib.until(lambda: page.run(seen))
    upload(page, folder / "photo.png")
    browser_lib.until(lambda: page.widths("#hint img") == [SIDE])
    source = "return document.querySelector('#hint img').src"
    before = page.run(source)
    page.type("#high input[type=number]", "255\n")
    browser_lib.until(lambda: page.run(source) != before)


def test_what_is_wrong_with_a_picture_is_told(page, folder):
    upload(page, folder / "edges.png")
    browser_lib.until(lambda: page.widths("#hint img"))
    page.click(CLEAR)
    upload(page, folder / "inverted.png")
    told(page, "inverted.png is mostly white, and canny has white lines on black")
    assert not page.widths("#hint img")
    page.click(CLEAR)
    upload(page, folder / "corrupt.png")
    told(page, "corrupt.png: it is none of JPEG, PNG")


def test_a_prompt_that_is_too_long_is_told_and_the_next_is_drawn(page):
    page.type("#prompt textarea", "a fox and an owl " * 30)
    page.click("#draw")
    told(page, "pieces, 78 fit; cut:")
    page.type("#prompt textarea", "a <b>qx</b> owl")
    drawn(page)
    told(page, "words this model does not know, in 'a <b>qx</b> owl'")


def test_numbers_out_of_range_are_told(page):
    page.type("#seed input", "-7")
    page.click("#draw")
    told(page, "seed -7 is not in -1 .. 2147483647")


def asking(address, picture):
    """What the hint of a picture named by hand is answered with."""
    asked = [{"path": str(picture)}, "canny", "find", 100, 200]
    number = json.loads(answer(f"{address}/gradio_api/call/hint", {"data": asked}))
    return answer(f"{address}/gradio_api/call/hint/{number['event_id']}").decode()


def test_a_file_of_the_server_that_nobody_uploaded_is_not_read(address, folder):
    found = asking(address, folder / "photo.png")
    assert "photo.png was not uploaded here" in found and "event: complete" not in found


def test_two_that_ask_at_once_are_both_answered(address):
    ask = f"{address}/gradio_api/call/draw"
    data = ["an owl", "", None, "canny", "ready", 100, 200, 1, "even", 3, 30]
    numbers = [
        json.loads(answer(ask, {"data": [*data, seed, 1]}))["event_id"]
        for seed in (5, 6)
    ]
    for number, seed in zip(numbers, ("5", "6"), strict=True):
        found = answer(f"{ask}/{number}").decode()
        *_, last = [line for line in found.splitlines() if line.startswith("data: ")]
        assert "event: complete" in found and json.loads(last[6:])[1] == seed


def test_ctrl_c_ends_it_and_leaves_no_file():
    kept = set(pathlib.Path(tempfile.gettempdir()).glob("ldm_jax_web_*"))
    with served() as (address, process, wait):
        code, said = commands.run("ldm_jax.demo", f"--port={address.split(':')[-1]}")
        assert code == 2 and "error: Cannot find empty port" in said
        os.kill(process.pid, signal.SIGINT)
        code, said = wait()
    assert code == 0 and f"{address}/ (Ctrl-C ends)" in said
    assert set(pathlib.Path(tempfile.gettempdir()).glob("ldm_jax_web_*")) == kept
