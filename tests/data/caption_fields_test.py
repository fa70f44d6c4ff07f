"""Fields of examples and the texts in them."""

import numpy as np
import pytest

from imagen_jax.core import errors
from imagen_jax.data import caption_fields

COCO = {"captions": [{"text": "a", "id": 1}, {"text": "b"}], "a/b": "slash"}


def read(example, field=None):
  return list(caption_fields.read(example, field, where="line 3"))


def test_a_path_goes_through_objects_and_lists():
  assert read(COCO, "captions/text") == ["a", "b"]
  assert read(COCO, "a/b") == ["slash"]
  assert read([COCO, COCO], "a/b") == ["slash", "slash"]
  assert read({"a": {"b": "inner"}}, "a/b") == ["inner"]


def test_the_preferred_field_is_read_first():
  assert read({"text": "second", "caption": "first"}) == ["first"]
  assert read({"text": "second"}) == ["second"]


def test_texts_of_every_kind():
  value = np.array([b"bytes", "str", ""], object)
  assert read({"text": value}) == ["bytes", "str", ""]
  assert read({"text": [["a"], None, []]}) == ["a", None]
  assert read({"text": "\ud83c \ud83c\udf4e"[:3]}) == ["? ?"]


@pytest.mark.parametrize("value", [1, 1.5, True, {"a": "b"}, np.array(1)])
def test_what_is_no_text(value):
  with pytest.raises(errors.DataError, match=r"'text' of line 3 is .*expected"):
    read({"text": value})
  with pytest.raises(errors.DataError, match="line 3 is .*expected an object"):
    read(value if not isinstance(value, dict) else "text")


def test_what_is_there_instead():
  with pytest.raises(
    errors.BadInput,
    match=r"line 3 has no field 'caption' or 'text'; it has: url, captions\."
    r" Did you mean 'captions'\?",
  ):
    read({"url": "", "captions": ""})
  with pytest.raises(errors.BadInput, match="it has: none. Name one"):
    read({})
  with pytest.raises(errors.BadInput, match="'zzz'; it has: text, id"):
    read(COCO, "captions/zzz")
  with pytest.raises(errors.DataError, match="not UTF-8 .*byte 1.; convert"):
    read({"text": b"a\xff"})
