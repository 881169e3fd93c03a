"""Picture files against Pillow, torch and the formats' own rules: what is read, what is written."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from creative_upscaler.cli.metadata import FORMATS, read_record
from creative_upscaler.cli.pictures import check_format, read_picture, write_picture
from creative_upscaler.pipelines.errors import PictureError, SizeLimitError

RECORD = {"creative_upscaler": "0", "seed": 2**64 - 1, "settings": {"prompt": 'Käthe 🐈 "x"\n<b>'}}


def pixels(height=7, width=5, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def rgb_profile():
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def write_png(path, values, color_type):
    """A 16-bit PNG as the specification (W3C, third edition) has it; Pillow cannot write colour ones."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("color_type", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_deep_png_keep_their_sixteen_bits(tmp_path, color_type, channels):
    values = np.random.default_rng(0).integers(0, 2**16, (6, 9, channels), np.uint16)
    write_png(tmp_path / "deep.png", values, color_type)
    expected = torch.from_numpy(values.astype(np.float32) / 65535).permute(2, 0, 1)
    if channels == 2:
        expected = expected[[0, 0, 0, 1]]
    torch.testing.assert_close(read_picture(tmp_path / "deep.png").image[0], expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
def test_pictures_are_read_upright(tmp_path, orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned"
    Image.fromarray(pixels(12, 8)).save(path, format=format, exif=exif)
    with Image.open(path) as file:
        upright = np.asarray(ImageOps.exif_transpose(file))
    read = read_picture(path).image[0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal((read * 255).round(), upright)


def test_every_mode_is_read_as_pillow_shows_it(tmp_path):
    color = Image.fromarray(pixels(8, 8))
    alpha = Image.fromarray(pixels(8, 8, 4))
    transparent_palette = color.convert("P")
    transparent_palette.info["transparency"] = 3
    for name, image, mode in [
        ("palette", color.convert("P"), "RGB"),
        ("transparent_palette", transparent_palette, "RGBA"),
        ("grey", color.convert("L"), "L"),
        ("bilevel", color.convert("1"), "L"),
        ("grey_alpha", alpha.convert("LA"), "RGBA"),
        ("alpha", alpha, "RGBA"),
    ]:
        path = tmp_path / f"{name}.png"
        image.save(path, **({"transparency": 3} if name == "transparent_palette" else {}))
        with Image.open(path) as file:
            shown = np.asarray(file.convert(mode)).reshape(8, 8, -1)
        read = read_picture(path).image[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal((read * 255).round(), shown, err_msg=name)


def test_cmyk_is_converted_to_rgb_and_its_profile_is_dropped(tmp_path):
    red = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red.save(tmp_path / "plain.jpg", quality=100)
    red.save(tmp_path / "broken_profile.jpg", quality=100, icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 200)
    for path in tmp_path.iterdir():
        picture = read_picture(path)
        assert picture.profile is None
        assert picture.image.shape == (1, 3, 8, 8)
        torch.testing.assert_close(picture.image[0, :, 0, 0], torch.tensor([1.0, 0, 0]), atol=0.02, rtol=0)


@pytest.mark.parametrize("format", FORMATS)
def test_profile_and_record_survive_in_every_format(tmp_path, format):
    Image.fromarray(pixels()).save(tmp_path / "in.png", icc_profile=rgb_profile())
    picture = read_picture(tmp_path / "in.png")
    path = tmp_path / "new folder" / "out"
    write_picture(path, picture.image[0], format=format, quality=95, profile=picture.profile, record=RECORD)
    assert read_record(path) == RECORD
    with Image.open(path) as file:
        assert file.format == format.upper()
        assert file.info["icc_profile"] == rgb_profile()
    assert [file.name for file in path.parent.iterdir()] == ["out"]


def test_png_returns_the_very_pixels_with_alpha(tmp_path):
    for channels in (3, 4):
        values = pixels(channels=channels)
        Image.fromarray(values).save(tmp_path / "in.png")
        image = read_picture(tmp_path / "in.png").image[0]
        write_picture(tmp_path / "out.png", image, format="png", quality=95, profile=None, record=RECORD)
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png")), values)


def test_jpeg_puts_transparency_on_white(tmp_path):
    image = torch.zeros(4, 8, 8)
    write_picture(tmp_path / "x.jpg", image, format="jpeg", quality=95, profile=None, record=RECORD)
    assert np.asarray(Image.open(tmp_path / "x.jpg")).min() > 250


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def fill_the_disk(image, file, **options):
        file.write_bytes(b"half a picture")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill_the_disk)
    with pytest.raises(OSError, match="No space left"):
        write_picture(path, torch.rand(3, 4, 4), format="png", quality=95, profile=None, record=RECORD)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_unreadable_files_say_which_and_why(tmp_path):
    frames = [Image.fromarray(pixels(seed=number)) for number in range(2)]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:])
    whole = io.BytesIO()
    Image.fromarray(pixels(64, 64)).save(whole, format="png")
    (tmp_path / "half.png").write_bytes(whole.getvalue()[:3000])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    Image.fromarray(pixels()).save(tmp_path / "other.tiff")
    for name, reason in {
        "moving.webp": "is an animation",
        "half.png": "cannot be read",
        "text.png": "no JPEG, PNG or WebP",
        "empty.png": "no JPEG, PNG or WebP",
        "other.tiff": "no JPEG, PNG or WebP",
        "missing.png": "cannot be read",
    }.items():
        with pytest.raises(PictureError, match=reason) as caught:
            read_picture(tmp_path / name)
        assert name in str(caught.value)


def test_a_size_the_format_cannot_hold_is_refused_beforehand():
    check_format("webp", 16383, 1)
    check_format("png", 100_000, 1)
    with pytest.raises(SizeLimitError, match=r"16383.*--format png"):
        check_format("webp", 1, 16384)


def test_pictures_of_others_have_no_record(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    assert read_record(tmp_path / "text.png") is None
    assert read_record(tmp_path / "missing.png") is None
    for number, content in enumerate([b"", b"ASCII\0\0\0[1, 2]", b"ASCII\0\0\0{not json", b"\xff\xfe" * 9]):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9286] = content
        Image.fromarray(pixels()).save(tmp_path / f"{number}.jpg", exif=exif)
        assert read_record(tmp_path / f"{number}.jpg") is None
