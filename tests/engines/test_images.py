"""Pictures as the engines get them: whatever the file holds, a picture to the last row or a sentence that names it."""

from __future__ import annotations

import random
import threading
import time
import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from grounddecode.engines import images
from grounddecode.engines.images import MAX_PIXELS, open_image

RAMP = np.linspace(0, 1, 256)


def gray(path: Path) -> list[int]:
    opened = open_image(path)
    assert opened.mode == "RGB"
    values = np.asarray(opened)
    assert (values == values[:, :, :1]).all()
    return [int(value) for value in values[0, :, 0]]


# Values of more than 8 bits.

EXPECTED = list(range(256))


@pytest.mark.parametrize("kind", ["png", "tiff", "big-endian tiff", "pgm"])
def test_sixteen_bits_are_scaled_by_their_whole_range(kind: str, tmp_path: Path) -> None:
    row = np.rint(RAMP * 65535).astype(np.uint16)[None]  # 257 a step, exactly
    path = tmp_path / f"ramp.{kind.split()[-1]}"
    if kind == "pgm":
        path.write_bytes(b"P5 256 1 65535\n" + row.astype(">u2").tobytes())
    elif kind == "big-endian tiff":
        image = Image.frombytes("I;16B", (256, 1), row.astype(">u2").tobytes())
        image.save(path)
        assert path.read_bytes()[:2] == b"MM"
    else:
        Image.fromarray(row).save(path)
    assert gray(path) == EXPECTED


def test_sixteen_bits_that_use_a_part_stay_dark(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 256, 1000, 4095]], np.uint16)).save(tmp_path / "dark.png")
    assert gray(tmp_path / "dark.png") == [0, 1, 4, 16]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([0, 51, 255], np.int32, [0, 51, 255]),
        ([0, 257, 65535], np.int32, [0, 1, 255]),
        ([0, 1_000_000, 2_000_000], np.int32, [0, 128, 255]),
        ([-100, 0, 100], np.int32, [0, 128, 255]),
        ([1, 1, 1], np.int32, [1, 1, 1]),
        ([0, 0.5, 1], np.float32, [0, 128, 255]),
        ([0, 51, 254.6], np.float32, [0, 51, 255]),
        ([0, 257, 65535], np.float32, [0, 1, 255]),
        ([-1, 0, 3], np.float32, [0, 64, 255]),
        ([np.nan, 0.2, np.inf], np.float32, [0, 51, 0]),
        ([np.nan, np.nan, -np.inf], np.float32, [0, 0, 0]),
        ([7e9, 7e9, 7e9], np.float32, [0, 0, 0]),
    ],
)
def test_thirty_two_bits_go_by_the_range_of_their_values(
    values: list[float], kind: type, expected: list[int], tmp_path: Path
) -> None:
    Image.fromarray(np.array([values], kind)).save(tmp_path / "wide.tiff")
    assert gray(tmp_path / "wide.tiff") == expected
    assert list(np.asarray(open_image(Image.fromarray(np.array([values], kind))))[0, :, 0]) == expected


# Transparency, palettes, colour spaces, orientation.


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (40, 255), (40, 40, 40)),
        ("LA", (0, 0), (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
    ],
)
def test_what_is_transparent_has_white_behind_it(
    mode: str, colour: object, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    Image.new(mode, (3, 2), colour).save(tmp_path / "a.png")
    assert open_image(tmp_path / "a.png").getpixel((1, 1)) == expected
    assert open_image(Image.new(mode, (3, 2), colour)).getpixel((1, 1)) == expected


@pytest.mark.parametrize("form", ["png", "gif"])
def test_palettes_with_and_without_a_transparent_colour(form: str, tmp_path: Path) -> None:
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([200, 0, 0, 0, 100, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / f"plain.{form}")
    palette.save(tmp_path / f"clear.{form}", transparency=0)
    opened = [open_image(tmp_path / f"{name}.{form}") for name in ("plain", "clear")]
    assert [[one.getpixel((x, 0)) for x in (0, 1)] for one in opened] == [
        [(200, 0, 0), (0, 100, 0)],
        [(255, 255, 255), (0, 100, 0)],
    ]


def test_cmyk(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red, green, blue = open_image(tmp_path / "red.jpg").getpixel((4, 4))
    assert red > 240
    assert green < 15
    assert blue < 15


@pytest.mark.parametrize("draft", [None, 1])
def test_pictures_are_turned_upright(draft: int | None, tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 32), "black")
    ImageDraw.Draw(image).rectangle((0, 0, 31, 31), fill="white")  # left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    image.save(tmp_path / "a.jpg", exif=exif)
    opened = open_image(tmp_path / "a.jpg", side=draft)
    assert opened.height == 2 * opened.width
    assert opened.getpixel((opened.width // 2, opened.height // 8))[0] > 200
    assert opened.getpixel((opened.width // 2, opened.height * 7 // 8))[0] < 50


# Size.


def flat(width: int, height: int, path: Path) -> Path:
    Image.new("L", (width, height)).save(path)
    return path


@pytest.mark.parametrize("side", [9_000, 12_000, 15_000])
@pytest.mark.parametrize("form", ["png", "jpg"])
def test_too_many_pixels_are_refused_at_once_and_quietly(side: int, form: str, tmp_path: Path) -> None:
    path = flat(side, side, tmp_path / f"large.{form}")
    begin = time.thread_time()  # of this thread's own work: how busy the machine is does not count
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=rf"large.{form} has {side} x {side} pixels, more than 50,000,000"):
            open_image(path)
    assert time.thread_time() - begin < 0.5
    assert Image.MAX_IMAGE_PIXELS is not None  # pillow's own limit is what it was


def test_a_picture_that_is_no_file_is_refused_in_words_that_stay_the_same() -> None:
    with pytest.raises(ValueError, match=r"^the picture has 96 x 90 pixels, more than 5: ") as refused:
        open_image(Image.new("RGB", (96, 90)), max_pixels=5)
    assert type(refused.value) is ValueError  # a run stores the name beside the words


def test_the_limit_can_be_raised_and_lowered(tmp_path: Path) -> None:
    path = flat(9_500, 9_500, tmp_path / "large.jpg")  # pillow alone would warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(path, max_pixels=100_000_000, side=100).size == (1188, 1188)
    with pytest.raises(ValueError, match="more than 99"):
        open_image(flat(10, 10, tmp_path / "small.png"), max_pixels=99)
    with pytest.raises(ValueError, match="more than 99"):
        open_image(Image.new("L", (10, 10)), max_pixels=99)
    assert MAX_PIXELS == 50_000_000


@pytest.mark.parametrize(
    ("side", "size"), [(None, (1600, 800)), (900, (1600, 800)), (400, (800, 400)), (100, (200, 100))]
)
def test_a_jpeg_is_decoded_as_far_as_is_needed(side: int | None, size: tuple[int, int], tmp_path: Path) -> None:
    Image.radial_gradient("L").resize((1600, 800)).save(tmp_path / "a.jpg", quality=95)
    whole, drafted = open_image(tmp_path / "a.jpg"), open_image(tmp_path / "a.jpg", side=side)
    assert drafted.size == size
    small = [np.asarray(one.resize((100, 50), Image.Resampling.BICUBIC)).astype(int) for one in (whole, drafted)]
    assert np.abs(small[0] - small[1]).max() <= 4


def test_many_threads_and_pillows_limit(tmp_path: Path) -> None:
    path = flat(20, 20, tmp_path / "a.png")
    before = Image.MAX_IMAGE_PIXELS
    threads = [threading.Thread(target=lambda: [open_image(path) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


# Files that are none.


def test_files_that_are_none_say_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("RGB", (8, 8)).save(tmp_path / "drawing.jpg", "EPS")
    for name, word in [
        ("page.png", "of no known format"),
        ("empty.png", "of no known format"),
        ("drawing.jpg", "is a drawing"),
        ("none.png", "does not exist"),
        (".", "Is a directory"),
    ]:
        with pytest.raises(ValueError, match=word) as caught:
            open_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_memory_that_is_not_there_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = flat(8, 8, tmp_path / "a.png")

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(images.ImageOps, "exif_transpose", full)
    with pytest.raises(ValueError, match=r"a\.png is no readable image \(too large for the memory\)"):
        open_image(path)


def files() -> list[tuple[str, bytes]]:
    """A small picture in every format and mode that pillow writes here."""
    Image.init()
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8))
    made = []
    for form in sorted(Image.SAVE):
        for mode in ("RGB", "RGBA", "L", "P", "1", "CMYK", "I;16", "I", "F", "LA"):
            buffer = BytesIO()
            try:
                drawn.convert("I" if mode == "I;16" else mode).convert(mode).save(buffer, form)
            except (OSError, ValueError, KeyError):  # no such mode in this format
                continue
            made.append((form, buffer.getvalue()))
    return made


def mutated(data: bytes, draw: random.Random) -> bytes:
    """The file cut, with other bytes anywhere or in its header, with bytes left out or put in."""
    changed, at = bytearray(data), draw.randrange(len(data))
    kind = draw.randrange(5)
    if kind == 0:
        del changed[at:]
    elif kind == 1:
        for _ in range(draw.randrange(1, 9)):
            changed[draw.randrange(len(changed))] = draw.randrange(256)
    elif kind == 2:
        for _ in range(draw.randrange(1, 6)):
            changed[draw.randrange(min(64, len(changed)))] = draw.choice((0, 255, 127, 128))
    elif kind == 3:
        del changed[at : at + draw.randrange(1, 40)]
    else:
        changed[at:at] = draw.randbytes(draw.randrange(1, 20))
    return bytes(changed)


def complaint(path: Path, side: int | None) -> str:
    try:
        assert open_image(path, side=side).mode == "RGB"
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore")
def test_no_mutated_file_raises_anything_else(tmp_path: Path) -> None:
    draw, path, seeds = random.Random(7), tmp_path / "x.jpg", files()
    assert len({form for form, _ in seeds}) >= 15
    refused = 0
    for at in range(1_500):
        form, data = seeds[at % len(seeds)]
        path.write_bytes(mutated(data, draw))
        said = complaint(path, draw.choice((None, 8)))
        assert said == "" or str(path) in said, form
        refused += said != ""
    assert 300 < refused < 1_400


def test_a_video_is_refused_as_one(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(64))
    with pytest.raises(ValueError, match=r"clip\.mp4 is a video, and videos are not supported: give frames of it"):
        open_image(tmp_path / "clip.mp4")
