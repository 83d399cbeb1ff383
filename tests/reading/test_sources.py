"""Addresses, pipes and playlists: what is read, how much of it, and what is never shown or opened."""

import base64
import gzip
import http.server
import io
import os
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any, ClassVar

import forked
import pytest
from videos import barcode_frames, read_barcode, write_video

from dynfocus.processing.reading import downloads
from dynfocus.processing.reading.decoded_frames import describe_video
from dynfocus.processing.reading.downloads import public_name
from dynfocus.processing.reading.limits import ReadingLimits, default_limits
from dynfocus.processing.reading.sources import existing_path, open_source
from dynfocus.processing.reading.video_reading import read_video

HOME = ReadingLimits(allow_private_addresses=True)


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Any:
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", barcode_frames(36))


@pytest.fixture(autouse=True)
def quick(monkeypatch) -> None:
    monkeypatch.setattr(downloads, "_PAUSES", (0.0, 0.01, 0.02))
    monkeypatch.delenv("DYNFOCUS_ALLOW_PRIVATE_ADDRESSES", raising=False)


def limits(**values: Any) -> ReadingLimits:
    return ReadingLimits(**{"allow_private_addresses": True, **values})


def frames(source: Any, **settings: Any) -> list[int]:
    return [read_barcode(frame) for frame in read_video(source, num_frames=3, **{"limits": HOME, **settings}).frames]


def refused(source: Any, error: type[Exception] = ValueError, **settings: Any) -> str:
    """The sentence with which a source is refused."""
    with pytest.raises(error) as caught:
        read_video(source, num_frames=3, **{"limits": HOME, **settings})
    assert caught.value.__cause__ is None
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    # What was copied is given back, however long the error is kept.
    for frame, _ in traceback.walk_tb(caught.value.__traceback__):
        for value in frame.f_locals.values():
            assert not getattr(value, "is_copy", False) or value.file.closed
    return text


# ---- servers


class _Handler(http.server.BaseHTTPRequestHandler):
    data = b""
    asked: ClassVar[list[tuple[str, str, str | None]]] = []

    def do_GET(self) -> None:
        type(self).asked.append((self.headers["Host"], self.path, self.headers.get("Authorization")))
        page = self.path.partition("?")[0].strip("/")
        attempts = sum(path == self.path for _, path, _ in self.asked)
        if page.startswith("to/"):
            self.send_response(302)
            target = self.path[4:]
            self.send_header("Location", target if ":" in target else f"/{target}")
            self.end_headers()
        elif page.startswith("code"):
            self.send_error(int(page[4:7]))
        elif page.startswith("twice") and attempts < 3:
            self.send_error(503)
        elif page.startswith("brokentwice") and attempts < 3:
            self._answer(self.data[:-100], length=len(self.data))
        elif page == "short":
            self._answer(self.data[:-100], length=len(self.data))
        elif page == "claims":
            self._answer(b"x", length=1 << 40)
        elif page == "endless":
            self._answer(None)
        elif page == "trickle":
            self.send_response(200)
            self.end_headers()
            for _ in range(600):
                self._write(b"x")
                time.sleep(0.05)
        elif page == "headers":
            self._write(b"HTTP/1.1 200 OK\r\n")
            for number in range(600):
                self._write(b"X-%d: y\r\n" % number)
                time.sleep(0.05)
        elif page == "garbage":
            self._write(os.urandom(2000))
        elif page == "bomb":
            self._answer(gzip.compress(bytes(50_000_000)), encoding="gzip")
        elif page == "gzip":
            self._answer(gzip.compress(self.data), encoding="gzip")
        else:
            self._answer(self.data)

    def _answer(self, data: bytes | None, length: int | None = None, encoding: str | None = None) -> None:
        self.send_response(200)
        if encoding:
            self.send_header("Content-Encoding", encoding)
        if data is not None:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        if data is not None:
            return self._write(data)
        while True:
            self._write(bytes(1 << 16))

    def _write(self, data: bytes) -> None:
        try:
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:
            self.close_connection = True
            raise ConnectionError from None

    def log_message(self, *_: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """A client that went away is none."""


@pytest.fixture(scope="module")
def servers(film) -> Iterator[list[str]]:
    """Two servers at two ports: two origins."""
    _Handler.data = film.read_bytes()
    running = []
    for _ in range(2):
        server = _Server(("127.0.0.1", 0), _Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        running.append(server)
    yield [f"127.0.0.1:{server.server_address[1]}" for server in running]
    for server in running:
        server.shutdown()
        server.server_close()


def test_credentials_go_to_the_host_that_they_were_given_for(servers):
    one, two = servers
    expected = "Basic " + base64.b64encode(b"us er:pa/ss").decode()
    for path, seen in (
        ("/film.mp4", {"/film.mp4": expected}),
        ("/to/film.mp4", {"/to/film.mp4": expected, "/film.mp4": expected}),
        (f"/to/http://{one}/film.mp4", {"/film.mp4": expected}),
        (f"/to/http://{two}/film.mp4", {"/film.mp4": None}),
        (f"/to/http://{two}/to/http://{one}/film.mp4", {f"/to/http://{one}/film.mp4": None, "/film.mp4": expected}),
        (f"/to/http://o:p@{two}/film.mp4", {"/film.mp4": "Basic " + base64.b64encode(b"o:p").decode()}),
    ):
        _Handler.asked.clear()
        assert frames(f"http://us%20er:pa%2Fss@{one}{path}") == [6, 18, 30]
        found = {path: authorization for _, path, authorization in _Handler.asked}
        assert {path: found[path] for path in seen} == seen


def test_redirects_lead_to_http_alone_and_not_in_circles(servers, tmp_path, film):
    one, _ = servers
    for target in ("ftp://127.0.0.1/a.mp4", film.as_uri(), "data:video/mp4;base64,AAAA", "rtsp://127.0.0.1/x"):
        kind = target.partition(":")[0]
        assert f"leads to a {kind}:// address; only http(s) is followed" in refused(f"http://{one}/to/{target}")
    assert "redirects more than 10 times" in refused(f"http://{one}/" + "to/" * 30 + "film.mp4")
    assert "leads to what is not a valid address" in refused(f"http://{one}/to/http://host:port/x")


def test_servers_that_fail_are_asked_again(servers):
    one, _ = servers
    for page in ("twice", "brokentwice"):
        assert frames(f"http://{one}/{page}/{os.urandom(4).hex()}.mp4") == [6, 18, 30]
    for code, attempts in ((500, 3), (503, 3), (403, 1), (404, 1)):
        _Handler.asked.clear()
        kind = FileNotFoundError if code == 404 else ValueError
        assert f"code{code}.mp4: the server answered {code}" in refused(f"http://{one}/code{code}.mp4", kind)
        assert len(_Handler.asked) == attempts
    assert "the download broke off after" in refused(f"http://{one}/short")
    assert "the download failed" in refused(f"http://{one}/garbage")
    assert frames(f"http://{one}/gzip") == [6, 18, 30]


def test_downloads_have_bounds(servers):
    one, _ = servers
    small = limits(max_bytes=1_000_000)
    for page in ("claims", "endless", "bomb"):
        text = refused(f"http://{one}/{page}", limits=small)
        assert text.endswith(f"{page}: is larger than 1000000 bytes; raise ReadingLimits(max_bytes=…) to read it.")
    text = refused(f"http://{one}/trickle", limits=limits(max_seconds=0.5))
    assert "trickle: took longer than 0.5 s; raise ReadingLimits(max_seconds=…)" in text
    assert "headers: stalled for 1.4 s" in refused(f"http://{one}/headers", timeout=0.2)


def test_a_download_that_hardly_goes_on_is_stalled(servers, monkeypatch):
    monkeypatch.setattr(downloads, "_MINUTE", 0.4)
    text = refused(f"http://{servers[0]}/trickle")
    assert "trickle: stalled: only" in text and "within a minute" in text


def test_private_addresses_are_for_the_command_line(servers, monkeypatch):
    one, two = servers
    port = one.rpartition(":")[2]
    assert not default_limits().allow_private_addresses
    _Handler.asked.clear()
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
        text = refused(f"http://{host}:{port}/film.mp4", limits=None)
        assert "leads to the private address" in text or "cannot be reached" in text
    for host in (
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
        "100.64.0.1",
        "[::127.0.0.1]",
        "[64:ff9b:1::1]",
        "[fec0::1]",
    ):
        assert "leads to the private address" in refused(f"http://{host}/film.mp4", limits=None)
    assert not _Handler.asked

    # A name with one public and one private address, and a redirect from a public one.
    look_up = socket.getaddrinfo

    def found(host: str, *rest: Any, **more: Any) -> Any:
        if host == "mixed.example":
            return [entry for ip in ("93.184.216.34", "127.0.0.1") for entry in look_up(ip, *rest, **more)]
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", found)
    assert "private address 127.0.0.1" in refused(f"http://mixed.example:{port}/film.mp4", limits=None)
    judge = downloads._is_public
    monkeypatch.setattr(downloads, "_is_public", lambda address: address == "127.0.0.1" or judge(address))
    assert frames(f"http://{one}/film.mp4", limits=None) == [6, 18, 30]  # connects to what was looked up
    assert "private address" in refused(f"http://{one}/to/http://10.0.0.1/film.mp4", limits=None)

    monkeypatch.setenv("DYNFOCUS_ALLOW_PRIVATE_ADDRESSES", "1")
    monkeypatch.setattr(downloads, "_is_public", judge)
    assert frames(f"http://{two}/film.mp4", limits=None) == [6, 18, 30]


# ---- names


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://host.org/a/b.mp4", "https://host.org/a/b.mp4"),
        ("https://user:SECRET@host.org:8080/a.mp4?k=SECRET#SECRET", "https://host.org:8080/a.mp4"),
        ("https://SECRET@host.org/a b.mp4?k=SECRET SECRET", "https://host.org/a b.mp4"),
        ("https://user:SEC/SECRET@host.org/a.mp4", "https://…"),
        ("https://user:1/SECRET@host.org/a.mp4", "https://…"),
        ("https://user:SEC?SECRET@host.org/a.mp4", "https://…"),
        ("https://user:SEC#SECRET@host.org/a.mp4", "https://…"),
        ("https://SECRET SECRET@host.org/a.mp4", "https://host.org/a.mp4"),
        ("https://host.org/a.mp4?mail=me@SECRET", "https://host.org/a.mp4"),
        (" https://u:SECRET@host.org/a.mp4?SECRET", "https://host.org/a.mp4"),
        ("HTTPS://u:SECRET@host.org/a.mp4?SECRET", "HTTPS://host.org/a.mp4"),
        ("https:/u:SECRET@host.org/a.mp4", "https:…"),
        ("https:u:SECRET@host.org/a.mp4", "https:…"),
        ("s3://key:SECRET@bucket/a.mp4", "s3://bucket/a.mp4"),
        ("zip://a.mp4::https://u:SECRET@host.org/a.zip?SECRET", "zip://a.mp4::https://host.org/a.zip"),
        ("hf://datasets/me/films@main/a.mp4", "hf://datasets/me/films@main/a.mp4"),
        ("rtsp://u:SECRET@cam/1", "rtsp://cam/1"),
        ("data:video/mp4;base64,SECRETSECRET", "a data: URL of 34 characters"),
        ("films/holiday.mp4", "films/holiday.mp4"),
        ("a\x1b[31m\nb.mp4", "a\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}b.mp4"),
        ("x" * 1000 + ".mp4", "x" * 80 + "…" + "x" * 76 + ".mp4"),
    ],
)
def test_names_hold_no_secrets(address, name):
    assert public_name(address) == name and "SECRET" not in name
    assert name in describe_video(address)
    if "://" in address and not address.startswith("hf"):
        text = refused(address.replace("host.org", "host.invalid"), (ValueError, FileNotFoundError))  # type: ignore
        assert "SECRET" not in text
    elif address.startswith(("http", "data", "x")):
        assert "SECRET" not in refused(address, (ValueError, FileNotFoundError))  # type: ignore[arg-type]


# ---- other kinds of addresses


def test_data_urls(film):
    data = base64.b64encode(film.read_bytes()).decode()
    assert frames(f"data:video/mp4;base64,{data}") == [6, 18, 30]
    assert frames(f"DATA:;base64,{data}") == [6, 18, 30]
    assert frames(f"data:video/mp4; BASE64 ,{data}") == [6, 18, 30]
    for wrong in ("data:video/mp4;base64", "data:video/mp4;base64,%%%", "data:video/mp4;base64,QQ==", "data:,"):
        assert refused(wrong).startswith("a data: URL of ")


def test_a_file_url_with_a_relative_path(film, monkeypatch):
    monkeypatch.chdir(film.parent)
    assert frames(f"file://{film.name}") == frames(f"file://localhost{film}") == [6, 18, 30]
    assert refused("file://host/film.mp4", FileNotFoundError).startswith("host/film.mp4: there is no such")


def test_objects_of_bytes(film):
    twice = film.read_bytes().hex().encode()
    spread = memoryview(bytes(byte for pair in zip(film.read_bytes(), twice, strict=False) for byte in pair))[::2]
    assert frames(spread) == [6, 18, 30]
    closed = io.BytesIO(b"1")
    closed.close()
    assert refused(closed) == "the video given as a file object: is closed; open it again."


def test_stores_of_fsspec(film, tmp_path, servers):
    import zipfile

    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/films/a.mp4", film.read_bytes())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(film, "inside/a.mp4")
    memory.pipe("/films/a.zip", packed.getvalue())
    assert frames("memory://films/a.mp4", limits=None) == [6, 18, 30]
    assert frames("zip://inside/a.mp4::memory://films/a.zip", limits=None) == [6, 18, 30]
    with fsspec.open("memory://films/a.mp4", "rb") as file:
        assert frames(file) == [6, 18, 30]
    assert "there is no such video file" in refused("memory://films/b.mp4", FileNotFoundError)
    assert "is larger than 1000 bytes" in refused("memory://films/a.mp4", limits=limits(max_bytes=1000))
    assert "cannot read gopher:// URLs" in refused("gopher://host/a.mp4")
    assert "cannot read local:// URLs" in refused(f"local://{film}")
    for private in ("ftp://u:SECRET@127.0.0.1/a.mp4", f"zip://a.mp4::http://{servers[0]}/a.zip"):
        text = refused(private, limits=None)
        assert "may lead to private ones" in text and "SECRET" not in text
    text = refused("hf://datasets/no/such@main/a.mp4", (ValueError, FileNotFoundError))  # type: ignore[arg-type]
    assert text.startswith("hf://datasets/no/such@main/a.mp4: ")


@pytest.mark.parametrize(("stored", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_both_forms_of_unicode(film, tmp_path, stored, asked):
    from unicodedata import normalize

    folder = tmp_path / normalize(stored, "é") / normalize(asked, "ü")
    folder.mkdir(parents=True)
    there = folder / normalize(stored, "Åé한.mp4")
    there.write_bytes(film.read_bytes())
    for wanted in (tmp_path / normalize(form, "é/ü/Åé한.mp4") for form in ("NFC", "NFD")):
        assert existing_path(str(wanted)) == str(there)
        assert frames(wanted) == frames(wanted.as_uri()) == [6, 18, 30]
    assert existing_path("no/such/é.mp4") == "no/such/é.mp4"


def test_one_video_as_a_list_of_frame_files(tmp_path, servers):
    from PIL import Image

    from dynfocus.processing import DynFocusVideoProcessor
    from dynfocus.processing.reading.decoded_frames import flatten_videos
    from dynfocus.processing.rows.conversations import as_messages, media_of

    shown = barcode_frames(20)
    files = [tmp_path / f"{number:03d}.png" for number in range(20)]
    for frame, file in zip(shown, files, strict=True):
        Image.fromarray(frame).save(file)
    processor = DynFocusVideoProcessor(do_resize=False, do_rescale=False, do_normalize=False)
    for video in (files, [str(file) for file in files], [file.as_uri() for file in files], tuple(files)):
        assert len(flatten_videos(video)) == 1 and len(flatten_videos([video, video])) == 2
        assert describe_video(video) == "list of 20 frames"
        found = processor(video, num_frames=4, return_tensors="pt", return_metadata=True)
        pixels = found["pixel_values_videos"][0].permute(0, 2, 3, 1).numpy()
        assert [read_barcode(frame) for frame in pixels] == [2, 7, 12, 17]
        assert found["video_metadata"][0].frames_indices == [2, 7, 12, 17]
        with processor.stream(video, num_frames=4) as stream:
            (chunk,) = stream
        assert chunk.frame_indices.tolist() == [2, 7, 12, 17]
        assert (chunk.pixel_values == found["pixel_values_videos"][0]).all()
    names = [file.name for file in files]
    for row in (
        {"video": names, "question": "what?"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "video", "video": names}, {"type": "text", "text": "?"}]}
            ]
        },
    ):
        ((kind, video),) = media_of(as_messages(row, media_root=tmp_path))
        assert kind == "video" and len(flatten_videos(video)) == 1
        assert processor(video, return_tensors="pt")["pixel_values_videos"].shape[1] == 20
    files[3].write_bytes(b"no image")
    with pytest.raises(ValueError, match="003.png: cannot be read as an image: it is damaged, or no image"):
        processor(files)
    with pytest.raises(FileNotFoundError, match="none.png: there is no such image file"):
        processor([*files[:3], tmp_path / "none.png"])
    Image.fromarray(shown[0, :20]).save(files[3])
    with pytest.raises(ValueError, match="must all have one size"):
        processor(files)


def test_images_are_upright_and_bounded(tmp_path):
    from PIL import Image

    from dynfocus.processing.reading.images import image_array, read_image

    shown = barcode_frames(1, start=77)[0]
    image = Image.fromarray(shown)
    exif = Image.Exif()
    exif[0x0112] = 5  # transposed
    image.transpose(Image.Transpose.TRANSPOSE).save(tmp_path / "a.png", exif=exif)
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes(), (tmp_path / "a.png").as_uri()):
        assert read_barcode(image_array(read_image(source))) == 77
    letters = base64.b64encode((tmp_path / "a.png").read_bytes()).decode()
    assert read_image(letters).size == read_image(f"data:image/png;base64,{letters}").size == (64, 48)
    with pytest.raises(ValueError, match=r"a.png: cannot be read as an image: it has 48 × 64 pixels, more than 3000"):
        read_image(tmp_path / "a.png", limits(max_pixels=3000))
    Image.new("I;16", (8, 8)).save(tmp_path / "deep.png")
    assert read_image(tmp_path / "deep.png").mode == "I;16"


# ---- objects that wait or never end


class _Endless(io.RawIOBase):
    def __init__(self, seekable: bool, pause: float = 0.0):
        self.can_seek, self.pause = seekable, pause

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self.can_seek

    def seek(self, offset: int, whence: int = 0) -> int:
        return 1 << 60 if whence == 2 else offset

    def readinto(self, buffer: Any) -> int:
        time.sleep(self.pause)
        return len(buffer)


@pytest.mark.parametrize("seekable", [True, False])
def test_objects_that_never_end(seekable):
    text = refused(_Endless(seekable), limits=limits(max_bytes=5_000_000))
    assert text.startswith("the video given as a file object: is larger than 5000000 bytes")
    text = refused(_Endless(seekable, pause=0.05), limits=limits(max_seconds=0.4))
    assert "took longer than 0.4 s" in text
    with open("/dev/zero", "rb") as zeros:
        assert "/dev/zero: is larger than 5000000" in refused(zeros, limits=limits(max_bytes=5_000_000))


def test_a_pipe_that_stays_silent(film, tmp_path):
    reading, writing = os.pipe()
    with open(reading, "rb") as file:
        assert "stalled for 0.3 s" in refused(file, timeout=0.3)
        os.close(writing)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(film.read_bytes()))
    writer.start()
    with open(fifo, "rb") as file:
        assert frames(file) == [6, 18, 30]
    writer.join()


class _Broken(io.BytesIO):
    def read(self, *_: Any) -> Any:
        raise RuntimeError("http://u:SECRET@host/x\nfailed")

    read1 = readinto = read


def test_objects_that_fail(film):
    class Wild:
        """Gives more than it was asked for."""

        def __init__(self) -> None:
            self.data = film.read_bytes()

        def read(self, size: int = -1) -> bytes:
            data, self.data = self.data, b""
            return data

    assert frames(Wild()) == [6, 18, 30]
    assert "SECRET" not in refused(io.BufferedReader(_Broken()))  # type: ignore[arg-type]


# ---- FFmpeg opens nothing by itself


def _playlists(target: str, path: str) -> Iterator[tuple[str, bytes]]:
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{}\n#EXT-X-ENDLIST\n"
    yield "a.m3u8", hls.format(f"http://{target}/a.ts").encode()
    yield "local.m3u8", hls.format(path).encode()
    yield "master.m3u8", f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://{target}/b.m3u8\n".encode()
    yield "live.m3u8", hls.format(f"http://{target}/a.ts").replace("#EXT-X-ENDLIST\n", "").encode()
    yield "bom.m3u8", b"\xef\xbb\xbf" + hls.format(f"http://{target}/a.ts").encode()
    yield "concat.txt", f"ffconcat version 1.0\nfile {path}\n".encode()
    yield "web.ffconcat", f"ffconcat version 1.0\nfile http://{target}/a.mp4\n".encode()
    sdp = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    sdp += "a=rtpmap:96 H264/90000\n"
    yield "a.sdp", sdp.encode()
    yield "late.sdp", (b"x\n" * 60_000) + sdp.encode()
    yield (
        "a.mpd",
        (
            f'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            f'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
            f'<Representation id="1" bandwidth="1"><BaseURL>http://{target}/a.mp4</BaseURL></Representation>'
            f"</AdaptationSet></Period></MPD>"
        ).encode(),
    )
    yield "a.pls", f"[playlist]\nFile1=http://{target}/a.mp4\n".encode()
    yield "a.asx", f'<asx version="3.0"><entry><ref href="http://{target}/a.wmv"/></entry></asx>'.encode()


def test_playlists_are_refused_and_nothing_is_asked(servers, film, tmp_path):
    class Named(io.BytesIO):
        name = "video.m3u8"

    _Handler.asked.clear()
    for name, content in _playlists(servers[0], str(film)):
        path = tmp_path / name
        path.write_bytes(content)
        disguised = tmp_path / f"{name}.mp4"
        disguised.write_bytes(content)
        named = Named(content)
        named.name = name
        with open(path, "rb") as file:
            for source in (path, disguised, content, io.BytesIO(content), file, named):
                assert "is a playlist or a description of a stream, not a video" in refused(source, timeout=0.5)
    named = Named(film.read_bytes())
    assert frames(named) == [6, 18, 30]
    pattern = tmp_path / "frame%03d.png"
    pattern.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    refused(pattern)
    assert not _Handler.asked


def test_ffmpeg_has_no_protocol_even_for_what_is_not_known_as_a_playlist(servers, film, monkeypatch, tmp_path):
    from dynfocus.processing.reading import sources

    monkeypatch.setattr(sources, "is_playlist", lambda file: False)
    _Handler.asked.clear()
    opened = []
    monkeypatch.setattr(socket.socket, "bind", lambda self, address: opened.append(address))
    for name, content in _playlists(servers[0], str(film)):
        if "live" in name:
            continue
        (tmp_path / name).write_bytes(content)
        for source in (tmp_path / name, content):
            refused(source, timeout=0.5)
    assert not _Handler.asked and not opened


# ---- memory


def _gif(width: int, height: int) -> bytes:
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    return b"GIF89a" + size + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0" + size + b"\0\x02\x02D\x01\0;"


def _claims(film: Any, frames: int, constant: int) -> bytes:
    data = bytearray(film.read_bytes())
    at = data.index(b"stsz") + 8
    data[at : at + 8] = constant.to_bytes(4, "big") + frames.to_bytes(4, "big")
    at = data.index(b"stts") + 12
    data[at : at + 4] = frames.to_bytes(4, "big")
    return bytes(data)


def _fragments(tmp_path: Any, frames: int) -> bytes:
    path = write_video(
        tmp_path / "f.mp4",
        barcode_frames(12),
        container_options={"movflags": "frag_keyframe+empty_moov+default_base_moof"},
    )
    data = bytearray(path.read_bytes())
    at = data.index(b"trun") + 5
    data[at : at + 3] = b"\0\0\0"
    data[at + 3 : at + 7] = frames.to_bytes(4, "big")
    return bytes(data)


def _bombs(film: Any, tmp_path: Any) -> dict[str, tuple[bytes, str]]:
    return {
        "gif": (_gif(20000, 20000), "its frames have 20000 × 20000 pixels, more than 67108864; raise"),
        "wide gif": (_gif(65535, 65535), "pixels, more than 67108864"),
        "frames": (_claims(film, 30_000_000, 1), "claims to hold 30000000 frames, more than 4194304"),
        "few frames": (_claims(film, 4_000_000, 1), r"claims to hold 4000000 frames in \d+ bytes: it is damaged"),
        "fragment": (_fragments(tmp_path, 30_000_000), r"claims to hold 3000000\d frames, more than 4194304"),
    }


def test_small_files_take_little_memory(film, tmp_path):
    paths = []
    for name, (data, message) in _bombs(film, tmp_path).items():
        (tmp_path / name).write_bytes(data)
        paths.append((str(tmp_path / name), message))
    # The limit of address space is what is used before, and 300 MB.
    code = f"""
import re, resource
from dynfocus.processing.reading.video_reading import read_video
from dynfocus.processing.reading.index import import_av
import_av()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300_000_000, -1))
for path, message in {paths!r}:
    try:
        read_video(path)
    except ValueError as error:
        assert re.search(message, str(error)), error
    else:
        raise SystemExit(path + " was read")
"""
    (tmp_path / "read.py").write_text(code)
    forked.run(tmp_path / "read.py")


def test_bounds_can_be_set(film):
    for name, value, message in (
        ("max_pixels", 3071, r"its frames have 64 × 48 pixels, more than 3071; raise ReadingLimits\(max_pixels=…\)"),
        ("max_frames", 35, r"holds? .*frames"),
        ("max_duration", 3.0, "claims to last 3.6 s, more than 3 s"),
    ):
        with pytest.raises(ValueError, match=message):
            read_video(film, limits=limits(**{name: value}))
    assert frames(film, limits=limits(max_pixels=3072, max_frames=36, max_duration=4.0)) == [6, 18, 30]
    assert ReadingLimits().max_pixels >= 8192 * 8192
    assert open_source(film, limits=HOME).limits is HOME


def test_memory_that_is_not_there_is_named(film, monkeypatch):
    import numpy as np

    allocate = np.empty

    def empty(shape: Any, *rest: Any, **more: Any) -> Any:
        if shape == (3, 48, 64, 3):
            raise MemoryError
        return allocate(shape, *rest, **more)

    monkeypatch.setattr(np, "empty", empty)
    text = refused(film)
    assert text.endswith(
        "film.mp4: its 3 frames of 48 × 64 pixels do not fit into memory; ask for fewer or smaller ones."
    )


def test_parameters_of_a_path_are_not_printed():
    """`;token=…` is no query, and as secret as one."""
    for address in ("http://127.0.0.1:9/a.mp4;token=secret", "https://films.test/b;sig=secret/a.mp4;token=secret?x=1"):
        name = public_name(address)
        assert "secret" not in name and name.startswith(("http://127.0.0.1:9/a.mp4", "https://films.test/b"))
        assert name in refused(address, limits=limits(allow_private_addresses=False))
