"""Tests of imagen_jax.data.captions."""

import re

import pytest

from imagen_jax.data import captions, colours, emoji


@pytest.fixture(scope="module")
def labels():
  return [record.label for record in emoji.open_emoji().records]


def test_every_caption_is_plain_english(labels):
  for label in labels:
    noun = captions.noun_phrase(label)
    assert ":" not in noun and not re.search("[\u2019\u201c\u201d]", noun)
    assert noun == noun.strip() and "  " not in noun, noun
    if match := re.match("(an?) (.)", noun):
      exceptions = ("an h", "an x", "an N", "an S", "a u", "a e", "a o")
      sounds_like_vowel = match[2].lower() in "aeiou"
      agrees = (match[1] == "an") == sounds_like_vowel
      assert agrees or noun.startswith(exceptions), noun


def test_names_are_distinct_unless_the_labels_are_not(labels):
  names = {captions.name(label) for label in labels}
  assert len(names) == len(set(labels)) == 3119


def test_a_name_is_its_own_name(labels):
  """A caption can be made from the name as well as from the label."""
  for label in labels:
    noun = captions.name(label)
    assert captions.noun_phrase(noun) == captions.noun_phrase(label)


@pytest.mark.parametrize(
  ("label", "noun"),
  [
    ("crab", "a crab"),
    ("owl", "an owl"),
    ("unicorn", "a unicorn"),
    ("ewe", "a ewe"),
    ("hourglass done", "a finished hourglass"),
    ("x-ray", "an x-ray"),
    ("grapes", "grapes"),
    ("bus", "a bus"),
    ("compass", "a compass"),
    ("rhinoceros", "a rhinoceros"),
    ("glass of milk", "a glass of milk"),
    ("busts in silhouette", "busts in silhouette"),
    ("man lifting weights", "a man lifting weights"),
    ("globe showing Americas", "a globe showing Americas"),
    ("broccoli", "broccoli"),
    ("Statue of Liberty", "the Statue of Liberty"),
    ("one o\u2019clock", "a clock showing one o'clock"),
    ("keycap: 5", "a keycap 5"),
    ("A button (blood type)", "an A blood type button"),
    ("NG button", "an NG button"),
    ("NEW button", "a NEW button"),
    ("no smoking", "a no smoking sign"),
    ("Leo", "a Leo zodiac sign"),
    ("grinning face", "a grinning face"),
    (
      "woman golfing: medium skin tone",
      "a woman golfing with medium skin tone",
    ),
    ("man: red hair", "a man with red hair"),
    ("person: dark skin tone, bald", "a bald person with dark skin tone"),
    ("woman: beard", "a woman with a beard"),
    ("kiss: woman, man", "a kiss of a woman and a man"),
    (
      "handshake: light skin tone, dark skin tone",
      "a handshake with light and dark skin tones",
    ),
    (
      "family: man, woman, girl, boy",
      "a family of a man, a woman, a girl and a boy",
    ),
  ],
)
def test_noun_phrases(label, noun):
  assert captions.noun_phrase(label) == noun


def test_colours_take_their_article():
  assert captions.caption("crab", "navy blue") == (
    "a 3D render of a crab on a navy blue background"
  )
  starts = {
    c: captions.caption("owl", c).split(" on ")[1] for c in colours.NAMES
  }
  assert starts["orange"] == "an orange background"
  assert starts["green"] == "a green background"
