"""Grids of images: every pixel where it belongs, and the same bytes every time."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from repro.data.image_grid import grid, strip


def images(count: int, height: int = 5, width: int = 7, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def opened(png: bytes, mode: str = "RGB") -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(io.BytesIO(png)) as image:
        assert (image.format, image.mode) == ("PNG", mode)
        return np.array(image)


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 13),
    columns=st.none() | st.integers(1, 15),
    gap=st.integers(0, 3),
    side=st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
def test_every_image_is_in_its_place_and_the_rest_is_white(
    count: int, columns: int | None, gap: int, side: tuple[int, int]
) -> None:
    stored = images(count, *side) // 2  # no white, and seldom grey
    stored[0, :, 0, 0] = torch.tensor([1, 2, 3], dtype=torch.uint8)
    sheet = opened(grid(stored, columns, gap))
    height, width = side
    across = (sheet.shape[1] + gap) // (width + gap)
    if columns is not None:
        assert across == min(columns, count)
    for number, image in enumerate(stored.permute(0, 2, 3, 1).numpy()):
        row, column = divmod(number, across)
        top, left = row * (height + gap), column * (width + gap)
        place = sheet[top : top + height, left : left + width]
        assert np.array_equal(place, image)
        place[:] = 255
    assert (sheet == 255).all()
    rows = -(-count // across)
    assert sheet.shape == (rows * (height + gap) - gap, across * (width + gap) - gap, 3)


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 2), (4, 2), (5, 3), (9, 3), (10, 4), (64, 8)]
)
def test_a_grid_is_about_square(count: int, columns: int) -> None:
    assert grid(images(count)) == grid(images(count), columns)
    assert opened(grid(images(count))).shape[1] == columns * 9 - 2


def test_a_strip_is_one_row() -> None:
    sheet = opened(strip(images(10)))
    assert sheet.shape == (5, 10 * 9 - 2, 3)
    assert np.array_equal(sheet[:, 9:16], images(10)[1].permute(1, 2, 0).numpy())
    assert strip(images(1)) == grid(images(1))


def test_one_image_is_itself() -> None:
    assert np.array_equal(opened(grid(images(1))), images(1)[0].permute(1, 2, 0).numpy())


def test_grey_images_are_stored_as_grey() -> None:
    grey = images(5)[:, :1].expand(-1, 3, -1, -1)
    coloured = grey.clone()
    coloured[4, 2, 4, 6] ^= 1  # one level of one channel of one pixel
    sheet = opened(grid(grey), "L")
    assert np.array_equal(sheet[:5, 9:16], grey[1, 0].numpy())
    assert np.array_equal(opened(grid(coloured))[..., 0], sheet)
    assert len(grid(grey)) < len(grid(coloured))


def test_bytes_depend_on_the_pixels_alone() -> None:
    stored = images(6, 64, 64)
    backwards = stored.flip(0).contiguous().flip(0)
    last = stored.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # channels last
    assert grid(stored) == grid(backwards) == grid(last)
    with Image.open(io.BytesIO(grid(stored))) as image:
        assert image.info == {}  # no time, no author


@pytest.mark.parametrize(
    "wrong",
    [
        images(0),
        images(1, 0),
        images(1)[0],
        images(2)[:, :1],
        images(2).float(),
        images(2).permute(0, 2, 3, 1),
    ],
)
def test_what_is_no_image_is_refused(wrong: Tensor) -> None:
    for draw in (grid, strip):
        with pytest.raises(ValueError, match=r"^a grid .*\(\d") as error:
            draw(wrong)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(("columns", "gap"), [(0, 2), (-1, 2), (3, -1)])
def test_a_grid_of_no_columns_or_over_itself_is_refused(columns: int, gap: int) -> None:
    with pytest.raises(ValueError, match=f"a grid of {columns} columns, {gap} px apart"):
        grid(images(3), columns, gap)
