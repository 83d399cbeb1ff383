"""
The demo's page in Chromium: upload, ask, play, jump to a key frame, ask again, mistakes, a telephone, a keyboard.

Run by `scripts/check_browser.sh`, which keeps the pictures of the page.
"""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from adopted_models import stock
from browser import browser, faint_words, hosts_asked, save_page
from PIL import Image
from tiny_dual_encoders import save_dual_encoder

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "events.mp4"
QUESTION = "Which number is shown with the red star?"
READ = "Ask as often as you like"  # what the page says of a video that was read
PATIENCE = 300  # seconds, for a machine that does other things, too


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = os.environ.get("BROWSER_PICTURES")
    folder = Path(folder) if folder else tmp_path_factory.mktemp("pictures")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def made_request(**given):
    from dynfocus.cli.demo import Request

    names = ("max_visual_tokens", "fps", "max_frames")
    return Request(
        video="",
        model=given.pop("model", None),
        sampling={**{name: given.pop(name, None) for name in names}, "decoder": "auto", "on_truncated": "warn"},
        adoption={"dual_encoder": given.pop("dual_encoder", None)},
        max_new_tokens=8,
        device="cpu",
        dtype=None,
        revision=None,
        trust_remote_code=False,
        verbose=False,
        host="127.0.0.1",
        port=free_port(),
        max_upload=1,
    )


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def served(request, monkeypatch):
    """The page's address, and a list that grows by one name with each video that is read."""
    from dynfocus.cli import demo
    from dynfocus.cli.studio import Studio

    read, videos = Studio.read, []
    monkeypatch.setattr(Studio, "read", lambda self, path, *more: (videos.append(path), read(self, path, *more))[1])
    page, options = demo.prepare(request)
    _, address, _ = page.launch(**options, prevent_thread_lock=True)
    return page, address, videos


@pytest.fixture(scope="module")
def page():
    with pytest.MonkeyPatch.context() as patch:
        page, address, videos = served(made_request(), patch)
        yield address, videos
        page.close()


class Visitor:
    """What a visitor does on the page, and what the page then shows."""

    def __init__(self, driver, address):
        self.driver = driver
        driver.get(address)
        self.all("#video input[type=file]", wait=True)

    def all(self, selector, wait=False):
        from selenium.webdriver.common.by import By

        return self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, selector)) if wait else (
            self.driver.find_elements(By.CSS_SELECTOR, selector)
        )  # fmt: skip

    def until(self, found):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, PATIENCE).until(lambda _: found())

    def text(self, selector):
        return self.driver.execute_script("return document.querySelector(arguments[0])?.innerText || ''", selector)

    def upload(self, path, expected):
        self.all("#video input[type=file]", wait=True)[0].send_keys(str(path))
        self.until(lambda: expected in self.text("#note"))

    def write(self, question):
        (field,) = self.all("#question textarea")
        field.clear()
        field.send_keys(question)

    def ask(self, question):
        self.write(question)
        # Gone before the new one comes.
        self.driver.execute_script("document.querySelector('#answers .df-answer')?.classList.remove('df-answer')")
        self.all("#ask")[0].click()
        return self.answers()

    def answers(self):
        return [one.text for one in self.all("#answers .df-answer", wait=True)]

    def player(self, script):
        return self.driver.execute_script(f"const v = document.querySelector('#video video'); return {script}")

    def fits(self):
        """Nothing is wider than the window."""
        wide, window = self.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        video = self.player("v.getBoundingClientRect().toJSON()")
        return wide <= window and 0 < video["width"] <= window and video["height"] <= 0.6 * self.player("innerHeight")


def test_a_visitor_uploads_asks_plays_and_asks_again(page, pictures, tmp_path):
    address, videos = page
    upload = tmp_path / "my film (1) – ü.mp4"
    shutil.copy(EXAMPLE, upload)
    del videos[:]
    with browser(tmp_path / "profile", 1280, 1000) as driver:
        visitor = Visitor(driver, address)
        visitor.upload(upload, READ)
        assert visitor.text("#note").startswith("my film (1) – ü.mp4: 32 frames up to 0:31")
        assert visitor.ask(QUESTION) == ["472"]
        facts = visitor.text("#answers")
        assert "score 0.99" in facts and "4 key frames of 32 frames" in facts
        assert "216 visual tokens of 1,280 (17%)" in facts
        frames = visitor.all("#answers .df-frames button")
        assert [frame.text.split()[0] for frame in frames] == ["0:14", "0:15", "0:16", "0:20"]
        loaded = "return [...document.querySelectorAll('#answers img')].map((i) => i.complete && i.naturalWidth > 50)"
        assert driver.execute_script(loaded) == [True] * 5  # four key frames, one timeline
        assert "key frames at 0:14, 0:15" in visitor.all("#answers .df-timeline img")[0].get_attribute("alt")

        # The player plays; a click on a key frame lets it jump.
        visitor.until(lambda: visitor.player("v.readyState") == 4)
        driver.execute_script("const v = document.querySelector('#video video'); v.muted = true; v.play()")
        visitor.until(lambda: visitor.player("v.currentTime") > 0.3)
        driver.execute_script("document.querySelector('#video video').pause()")
        frames[0].click()
        visitor.until(lambda: visitor.player("v.currentTime") == pytest.approx(14.01, abs=0.01))
        save_page(driver, pictures / "wide.png")

        # The video is not read again.
        assert visitor.ask("Which number is shown with the blue circle?")[0].isdigit()
        assert len(videos) == 1
        # Less is spent within a smaller budget.
        (budget,) = visitor.all("#tokens input[type=number]")
        budget.clear()
        budget.send_keys("100\t")
        visitor.ask(QUESTION)
        assert int(visitor.text("#answers").split(" visual tokens")[0].split()[-1]) <= 100 and len(videos) == 1
        assert hosts_asked(driver) == {address.split("/")[2]}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_words_stand_out_and_the_timeline_fits_the_page(page, pictures, tmp_path, dark):
    with browser(tmp_path / "profile", 1280, 1000, dark) as driver:
        visitor = Visitor(driver, page[0])
        assert faint_words(driver) == []
        visitor.upload(EXAMPLE, READ)
        visitor.ask(QUESTION)
        visitor.all("#video")[0].click()  # the pointer leaves the button, whose color changes slowly
        visitor.until(lambda: faint_words(driver, over=("#video",)) == [])
        assert "visual tokens at most" in visitor.text("body")
        save_page(driver, pictures / ("dark.png" if dark else "light.png"))
        data = visitor.all("#answers .df-timeline img")[0].get_attribute("src").partition(",")[2]
        corner = Image.open(io.BytesIO(base64.b64decode(data))).convert("L").getpixel((1, 1))
        assert (corner < 60) == dark and (corner > 200) != dark


def test_two_rules_stand_side_by_side(tmp_path, pictures, monkeypatch):
    model, processor = stock("qwen3_vl")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "vlm")
    save_dual_encoder("siglip", tmp_path / "siglip")
    options = {"model": str(tmp_path / "vlm"), "dual_encoder": str(tmp_path / "siglip"), "max_visual_tokens": 600}
    page, address, videos = served(made_request(**options), monkeypatch)
    try:
        with browser(tmp_path / "profile", 1280, 1000) as driver:
            visitor = Visitor(driver, address)
            visitor.upload(EXAMPLE, READ)
            assert len(visitor.ask(QUESTION)) == 2 and len(videos) == 1
            left, right = (one.rect for one in visitor.all("#answers section"))
            assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]
            save_page(driver, pictures / "two_rules.png")
    finally:
        page.close()


def test_mistakes_are_one_sentence_each(page, pictures, tmp_path):
    address, _ = page
    broken = tmp_path / "holiday 2.mp4"
    broken.write_bytes(b"\0\0\0\x20ftypisom" + bytes(3000))
    large = tmp_path / "large.mp4"
    large.write_bytes(bytes(2_000_000))
    with browser(tmp_path / "profile", 1280, 1000) as driver:
        visitor = Visitor(driver, address)
        visitor.write(QUESTION)
        visitor.all("#ask")[0].click()
        visitor.until(lambda: "There is no video yet" in visitor.text("#answers"))
        visitor.upload(broken, "holiday 2.mp4")
        said = visitor.text("#note [role=alert]")
        assert "/" not in said and said.count("holiday 2.mp4") == 1 and "\n" not in said
        save_page(driver, pictures / "broken.png")
        # The next video is read as if nothing had happened.
        driver.refresh()
        visitor.upload(EXAMPLE, READ)
        visitor.write("  ")
        visitor.all("#ask")[0].click()
        visitor.until(lambda: "The question is empty" in visitor.text("#answers"))
        driver.refresh()
        visitor.all("#video input[type=file]", wait=True)[0].send_keys(str(large))
        visitor.until(lambda: "1.00 MB" in visitor.text("body") or "maximum" in visitor.text("body").lower())
        assert visitor.text("#note") == ""
        assert hosts_asked(driver) == {address.split("/")[2]}


def test_a_telephone_and_a_keyboard(page, pictures, tmp_path):
    from selenium.webdriver.common.keys import Keys

    address, videos = page
    del videos[:]
    with browser(tmp_path / "profile", 390, 844) as driver:
        visitor = Visitor(driver, address)
        # By keyboard alone: tabulators lead to the question, to the examples, and to the key frames.
        (field,) = visitor.all("#question textarea")
        field.send_keys(Keys.TAB)

        def name_of_focus():
            return driver.execute_script("const e = document.activeElement; return e.ariaLabel || e.innerText || ''")

        def tab_to(words):
            for _ in range(40):
                if words in name_of_focus():
                    return driver.switch_to.active_element
                driver.switch_to.active_element.send_keys(Keys.TAB)
            raise AssertionError(f"{words!r} cannot be reached")

        tab_to("green diamond").send_keys(Keys.ENTER)
        assert visitor.answers() == ["down"] and len(videos) == 1
        tab_to("Go to 0:").send_keys(Keys.ENTER)
        visitor.until(lambda: visitor.player("v.currentTime") > 0)
        assert visitor.fits()
        save_page(driver, pictures / "telephone.png")
        # Enter sends a question.
        driver.execute_script("document.querySelector('#answers .df-answer').classList.remove('df-answer')")
        visitor.write("Which number is shown with the yellow heart?")
        field.send_keys(Keys.ENTER)
        assert visitor.answers() == ["626"] and len(videos) == 1
        assert hosts_asked(driver) == {address.split("/")[2]}


def test_visitors_read_no_private_addresses_and_no_more_than_is_allowed(monkeypatch):
    from dynfocus.cli import demo

    monkeypatch.setenv("DYNFOCUS_ALLOW_PRIVATE_ADDRESSES", "1")
    page, options = demo.prepare(made_request())
    assert "DYNFOCUS_ALLOW_PRIVATE_ADDRESSES" not in os.environ
    assert options["max_file_size"] == "1mb" and options["server_name"] == "127.0.0.1" and not options["share"]
    assert page.analytics_enabled is False
    # The model answers one request at a time.
    assert {function.concurrency_id for function in page.fns.values() if function.inputs} == {"model"}


def test_a_hostile_visitor_reads_nothing(page, tmp_path):
    """Neither files of the server, nor private addresses, by whatever is sent in place of an upload."""
    import httpx

    address, _ = page
    functions = httpx.get(f"{address}config").json()["dependencies"]
    read = next(one["id"] for one in functions if any("upload" in target for target in one["targets"]))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

    def send(path):
        session = f"visitor-{len(seen)}"
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        body = {"data": [file], "fn_index": read, "session_hash": session, "event_data": None, "trigger_id": None}
        httpx.post(f"{address}gradio_api/queue/join", json=body).raise_for_status()
        answers = f"{address}gradio_api/queue/data?session_hash={session}"
        with httpx.stream("GET", answers, timeout=PATIENCE) as lines:
            for line in lines.iter_lines():
                if "process_completed" in line:
                    seen.append(line)
                    return json.loads(line.removeprefix("data:"))
        raise AssertionError("no answer")

    seen: list[str] = []
    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        Thread(target=other.serve_forever, daemon=True).start()
        private = f"http://127.0.0.1:{other.server_port}/film.mp4"
        for path in (str(EXAMPLE), private, "../../secret.mp4"):
            assert not send(path)["success"]
        playlist = f"#EXTM3U\n#EXTINF:10,\n{private}\n#EXT-X-ENDLIST\n".encode()
        uploaded = httpx.post(f"{address}gradio_api/upload", files={"files": ("film.m3u8", playlist)}).json()
        assert "is a playlist" in json.dumps(send(uploaded[0])["output"])
        other.shutdown()
    assert asked == []
    assert httpx.get(f"{address}gradio_api/file={EXAMPLE}").status_code == 403
    large = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.mp4", bytes(2_000_000))})
    assert large.status_code == 413


def test_an_exported_space_serves_the_page(tmp_path, pictures):
    from dynfocus.cli.space import write_space

    space, port = write_space(tmp_path / "space", None, None), free_port()
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=space, stdout=log, stderr=log, env=environment)
    try:
        address, end = f"http://127.0.0.1:{port}/", time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(address, timeout=10).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()[-2000:]
                time.sleep(1)
        with browser(tmp_path / "profile", 1024, 768) as driver:
            visitor = Visitor(driver, address)
            visitor.upload(EXAMPLE, READ)
            assert visitor.ask(QUESTION) == ["472"]
    finally:
        process.terminate()
        process.wait()
