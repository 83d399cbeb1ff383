"""Image files: single images, and videos whose frames are separate files."""

import base64
import binascii
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .downloads import public_name
from .limits import ReadingLimits
from .sources import open_source

_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}

# Formats of cameras and players: Pillow opens many more, some of which start programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000")


def read_image(source: Any, limits: ReadingLimits | None = None) -> Image.Image:
    """
    Read an image, upright and in its own mode.

    Args:
        source: a path, an address (as of videos), the bytes of a file, a binary file object, base64 letters, or an
            image of PIL.
        limits: as for videos.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or is larger than `limits` allow.
    """
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, str) and len(source) >= 64 and not os.path.lexists(source):
        try:
            source = base64.b64decode(source, validate=True)
        except binascii.Error:
            pass
    try:
        file = open_source(source, limits=limits)
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(_of_images(str(error))) from None
    try:
        with file.opened() as content:
            data = io.BytesIO(content.read(-1))
        Image.init()
        image = Image.open(data, formats=[name for name in _FORMATS if name in Image.OPEN])
        file.check_picture(*image.size)
        ImageOps.exif_transpose(image, in_place=True)
        image.load()
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plug-ins raise errors of any class
        known = str(error).startswith(file.name)
        message = str(error) if known else f"{file.name}: cannot be read as an image: it is damaged, or no image."
        raise ValueError(_of_images(message)) from None
    finally:
        file.close()
    return image


def _of_images(message: str) -> str:
    """Rewrites a message about a video for an image."""
    message = message.replace("video file", "image file").replace("the video given", "the image given")
    return message.replace(": its frames have ", ": cannot be read as an image: it has ")


def image_array(image: Image.Image) -> np.ndarray:
    """`(H, W, 3)`, uint8 unless the image has more than 8 bits, which PIL would clip instead of scaling."""
    if image.mode == "F" or image.mode.startswith("I"):
        return np.asarray(image)[..., None].repeat(3, axis=-1)
    return np.asarray(image.convert("RGB"))


def is_image_file(value: Any) -> bool:
    """Whether a path or an address has the ending of an image file, or bytes have the beginning of one."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        head = bytes(value[:32])
        is_animated = head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
        return head.startswith(_BEGINNINGS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP" and not is_animated)
    if not isinstance(value, (str, os.PathLike)):
        return False
    text = os.fsdecode(value)
    if "://" in text:
        text = re.split(r"[?#]", text, maxsplit=1)[0]
    return PurePosixPath(text[-300:]).suffix.lower() in IMAGE_SUFFIXES or text[:11].lower() == "data:image/"


class FrameFiles:
    """
    The frames of one video as separate image files, in order; each is read on access.

    Args:
        files: paths, addresses or the bytes of files.
    """

    def __init__(self, files: Sequence[str | os.PathLike | bytes]):
        self.files = list(files)
        self._first: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"FrameFiles({len(self)} files, the first one {self._name(0)})"

    def _name(self, number: int) -> str:
        file = self.files[number]
        is_named = isinstance(file, (str, os.PathLike))
        return public_name(os.fsdecode(file)) if is_named else f"frame {number} given as bytes"

    @property
    def shape(self) -> tuple[int, ...]:
        """`(T, H, W, 3)`, by the first one."""
        return (len(self), *self[0].shape)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, number: Any) -> np.ndarray:
        """Frame `number` as `(H, W, 3)` uint8; or frames `(n, H, W, 3)` for an array of numbers."""
        if isinstance(number, (np.ndarray, list)):
            return np.stack([self[one] for one in number])
        number = int(number)
        if number == 0 and self._first is not None:
            return self._first
        image = read_image(self.files[number])
        frame = image_array(image)
        if frame.dtype != np.uint8:
            raise ValueError(
                f"{self._name(number)}: has more than 8 bits (mode {image.mode}); save frames with 8 bits."
            )
        if number == 0:
            self._first = frame
        elif frame.shape != self[0].shape:
            sizes = sorted({frame.shape, self[0].shape})
            raise ValueError(f"The frames of a video must all have one size, got {sizes}.")
        return frame

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[number] for number in range(len(self)))


def as_frame_files(video: Any) -> FrameFiles | None:
    """A list of image files, which is one video; `None` for anything else."""
    if isinstance(video, FrameFiles):
        return video
    if isinstance(video, (list, tuple)) and video:
        files = [file_of(frame) for frame in video]
        return FrameFiles(files) if all(map(is_image_file, files)) else None
    return None


def file_of(value: Any) -> Any:
    """What a cell of a table's image column (`path` and `bytes`) stands for; anything else as it is."""
    if isinstance(value, Mapping) and value.keys() <= {"path", "bytes"}:
        return value.get("path") if value.get("bytes") is None else value["bytes"]
    return value


__all__ = ["FrameFiles", "as_frame_files", "file_of", "image_array", "is_image_file", "read_image"]
