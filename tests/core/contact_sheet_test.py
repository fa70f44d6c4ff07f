"""Contact sheets: what lies where, and captions that do not fit."""

import numpy as np
import PIL.ImageFont
import pytest

from imagen_jax.core import contact_sheet, errors


def row(n: int, side: int = 64, shade: int = 7) -> np.ndarray:
  return np.full((n, side, side, 3), shade, np.uint8)


def heights(captions: list[str], n: int = 4) -> list[int]:
  return [contact_sheet.labelled([row(n)], [c]).shape[0] for c in captions]


def test_every_image_is_on_the_sheet_once_and_unchanged():
  draw = np.random.default_rng(0)
  rows = [draw.integers(0, 256, (n, 32, 32, 3), np.uint8) for n in (3, 1)]
  sheet = contact_sheet.labelled(rows, ["first", "second"], gap=4)
  windows = np.lib.stride_tricks.sliding_window_view(sheet, (32, 32, 3))
  places = []
  for image in np.concatenate(rows):
    found = np.argwhere((windows[:, :, 0] == image).all((2, 3, 4)))
    assert len(found) == 1
    places.append(tuple(found[0]))
  tops, lefts = zip(*places, strict=True)
  assert lefts == (4, 40, 76, 4)
  assert tops[0] == tops[1] == tops[2] < tops[3]


def test_the_caption_is_above_its_row():
  sheet = contact_sheet.labelled([row(4)], ["a crab"])
  rest, images = sheet[:-68], sheet[-68:-4, 4:68]
  assert (images == 7).all()
  assert (rest < 128).any() and (rest == 255).any()
  blank = contact_sheet.labelled([row(4)], [" . "])
  assert (blank[:-68] != rest).any()


def test_sheets_are_wide_enough_to_read():
  assert contact_sheet.labelled([row(1, side=8)], ["a crab"]).shape[1] == 192
  assert contact_sheet.labelled([row(8)], ["a crab"]).shape[1] == 8 * 68 + 4


def test_long_captions_are_wrapped_then_cut():
  one, two, three, most = heights(
    ["owl", "owl " * 12, "owl " * 24, "owl " * 99]
  )
  assert one < two < three == most


@pytest.mark.parametrize(
  "text",
  ["owl " * 60, "w" * 500, "a crab on a navy blue background", "é 漢字 🦀"],
)
def test_lines_fit(text: str):
  font = PIL.ImageFont.load_default(13)
  lines = contact_sheet.wrap(text, font, 150)
  assert 1 <= len(lines) <= 3
  assert all(font.getlength(line) <= 150 for line in lines)
  assert lines[0][0] == text[0]
  assert lines[-1].endswith("...") == (len(text) > 100)


def test_an_empty_caption_says_so():
  font = PIL.ImageFont.load_default(13)
  assert contact_sheet.wrap("  ", font, 150) == ["(no prompt)"]


def test_rows_and_captions_must_agree():
  for rows, captions in (([row(1)], []), ([], [])):
    with pytest.raises(errors.BadInput, match="give as many of one as"):
      contact_sheet.labelled(rows, captions)


def test_single_images_stand_side_by_side_in_line():
  rows = [row(1, shade=10 * i) for i in range(6)]
  captions = ["a crab", "owl " * 12, "a fox", "a cat", "a hen", "a bee"]
  sheet = contact_sheet.labelled(rows, captions, gap=4)
  assert sheet.shape[1] == 4 * 192
  first_line = [sheet[:, i * 192 + 4 : i * 192 + 68] for i in range(4)]
  tops = [
    np.flatnonzero((cell == 10 * i).all((1, 2)))[0]
    for i, cell in enumerate(first_line)
  ]
  assert len(set(tops)) == 1
