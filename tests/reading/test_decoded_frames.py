"""Frames in memory: one rule for arrays and images, whatever their number of bits."""

import numpy as np
import pytest
import torch
from PIL import Image

from dynfocus.processing.reading.decoded_frames import as_rgb_frames

RAMP = np.linspace(0, 255, 12).round().astype(np.uint8).reshape(3, 4)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "YCbCr", "CMYK", "I", "I;16", "F"])
def test_an_image_of_any_mode_keeps_its_brightness(mode):
    image = Image.fromarray(RAMP)
    image = Image.fromarray(RAMP.astype(np.uint16)) if mode == "I;16" else image.convert(mode)
    assert image.mode == mode
    for video in (image, [image, image]):
        frames = as_rgb_frames(video)
        assert frames.dtype == np.uint8 and frames.shape[1:] == (3, 4, 3)
        assert np.abs(frames[-1].astype(int) - RAMP[..., None]).max() <= 2


def test_images_and_arrays_of_more_bits_follow_one_rule():
    deep = RAMP.astype(np.uint16) * 257
    for values in (deep, deep.astype(np.int32), deep.astype(np.float32)):
        for video in (Image.fromarray(values), [Image.fromarray(values)], values[None, ..., None]):
            with pytest.raises(ValueError, match=r"Frames must lie in .* got \[0, 65535\]: .* scaled to \[0, 1\]\."):
                as_rgb_frames(video)
    unit = deep.astype(np.float32) / 65535
    for video in (Image.fromarray(unit), [Image.fromarray(unit)] * 2, unit[None, ..., None]):
        assert np.abs(as_rgb_frames(video)[-1].astype(int) - RAMP[..., None]).max() <= 1


def test_frames_of_integers_and_of_fractions_are_not_mixed():
    with pytest.raises(ValueError, match="all integers or all floating-point"):
        as_rgb_frames([Image.fromarray(RAMP), Image.fromarray(RAMP.astype(np.float32) / 255)])


def test_what_is_no_plain_number_is_refused():
    ones = np.ones((2, 4, 4, 3))
    for frames in (ones.astype(complex), torch.ones(2, 4, 4, 3).to_sparse(), torch.ones(2, 4, 4, 3, device="meta")):
        with pytest.raises(ValueError, match="Frames must be"):
            as_rgb_frames(frames)
    assert (as_rgb_frames(torch.ones(2, 4, 4, 3).to(torch.float8_e4m3fn)) == 255).all()


def test_an_overshoot_beyond_one_is_not_taken_for_bytes():
    frames = np.linspace(0, 1.004, 96).reshape(2, 4, 4, 3)
    with pytest.raises(ValueError, match="must be clipped"):
        as_rgb_frames(frames)
    assert as_rgb_frames(frames.clip(0, 1)).max() == 255
    assert as_rgb_frames(np.full((2, 4, 4, 3), 1.5) + np.arange(2)[:, None, None, None]).max() == 2
