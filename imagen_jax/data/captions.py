"""Captions in plain English from Unicode's short names.

  caption("crab", "navy blue") =
    "a 3D render of a crab on a navy blue background"

A Unicode label is a catalogue entry ("woman golfing: medium skin tone",
"one-thirty", "no smoking"). `name` rewrites it as a noun, `noun_phrase` adds
the article: "a" or "an" by sound, none for plurals, masses and names.
"""

import functools
import re

TEMPLATE = "a 3D render of {noun} on {colour} background"

# Labels that are no nouns, or not the noun one would type.
_NAMES = {
  "ZZZ": "sleeping ZZZ",
  "breast-feeding": "breast-feeding woman",
  "building construction": "construction crane",
  "camping": "camping tent",
  "construction": "construction barrier",
  "cooking": "frying pan with an egg",
  "dashing away": "cloud of dust",
  "dizzy": "dizzy star",
  "dna": "DNA strand",
  "dvd": "DVD",
  "foggy": "foggy city",
  "fog": "cloud of fog",
  "high voltage": "lightning bolt",
  "hourglass done": "finished hourglass",
  "hourglass not done": "running hourglass",
  "kaaba": "the Kaaba",
  "light rail": "light rail train",
  "locked": "closed padlock",
  "locked with key": "closed padlock with key",
  "locked with pen": "closed padlock with pen",
  "milky way": "the Milky Way",
  "meat on bone": "meat on a bone",
  "mount fuji": "Mount Fuji",
  "rolling on the floor laughing": "face rolling on the floor laughing",
  "soap": "bar of soap",
  "star-struck": "star-struck face",
  "Statue of Liberty": "the Statue of Liberty",
  "thread": "spool of thread",
  "Tokyo tower": "the Tokyo Tower",
  "unlocked": "open padlock",
  "wedding": "wedding chapel",
  "yarn": "ball of yarn",
}
_SIGNS = frozenset((
  "baggage claim", "biohazard", "children crossing", "customs", "divide",
  "left luggage", "minus", "mobile phone off", "multiply", "no bicycles",
  "no entry", "no littering", "no mobile phones", "no one under eighteen",
  "no pedestrians", "no smoking", "non-potable water", "passport control",
  "plus", "potable water", "prohibited", "radioactive", "vibration mode",
  "warning",
))  # fmt: skip
_SYMBOLS = frozenset((
  "cinema", "copyright", "currency exchange", "infinity", "information",
  "input latin uppercase", "input latin lowercase", "khanda", "om",
  "registered", "trade mark", "wireless", "yin yang",
))  # fmt: skip
_ZODIAC = frozenset((
  "Aries", "Taurus", "Gemini", "Cancer", "Leo", "Virgo", "Libra", "Scorpio",
  "Sagittarius", "Capricorn", "Aquarius", "Pisces", "Ophiuchus",
))  # fmt: skip
# Masses, names and games, which take no article.
_BARE = frozenset((
  "Mount Fuji", "Mrs. Claus", "Mx Claus", "Santa Claus", "bacon", "badminton",
  "bowling", "bread", "broccoli", "bubble tea", "butter", "canned food",
  "cooked rice", "coral", "curry rice", "custard", "field hockey", "fire",
  "garlic", "horse racing", "ice", "ice hockey", "lacrosse", "luggage", "mate",
  "meat on a bone",
  "money with wings", "nail polish", "oden", "palms up together",
  "performing arts", "ping pong", "popcorn", "pouring liquid", "sake", "salt",
  "shaved ice", "sleeping ZZZ", "spaghetti", "sushi", "tennis",
  "wood",
))  # fmt: skip
# What may follow the head noun and does not decide its number.
_AFTER = re.compile(
  r" (?:and|at|behind|blowing|for|from|getting|holding|in|lifting|of|on|over|"
  r"pointing|showing|tipping|under|with|without)(?: |$)"
)
_TONE = " skin tone"


def _join(words: list[str]) -> str:
  """["a", "b", "c"] -> "a, b and c"."""
  return " and ".join([", ".join(words[:-1]), words[-1]][len(words) < 2 :])


def _qualified(base: str, parts: list[str]) -> str:
  """What follows the colon of a label, as an English phrase."""
  tones = [p.removesuffix(_TONE) for p in parts if p.endswith(_TONE)]
  people = [p for p in parts if p in ("man", "woman", "boy", "girl")]
  traits = [p for p in parts if not p.endswith(_TONE) and p not in people]
  if base == "keycap":
    return f"keycap {parts[0]}"
  if "bald" in traits:
    base = f"bald {base}"
  if people:
    base = f"{base} of {_join([f'a {person}' for person in people])}"
  traits = ["a beard" if t == "beard" else t for t in traits if t != "bald"]
  if tones:
    traits.insert(0, _join(tones) + _TONE + "s" * (len(tones) > 1))
  return f"{base} with {_join(traits)}" if traits else base


def name(label: str) -> str:
  """A Unicode short name as a noun without article.

  "woman golfing: medium skin tone" -> "woman golfing with medium skin tone".
  """
  # Typographic apostrophes become plain, quotation marks go.
  label = label.replace("\u2019", "'")
  label = label.replace("\u201c", "").replace("\u201d", "")
  if ": " in label:
    base, parts = label.split(": ", 1)
    return _qualified(_NAMES.get(base, base), parts.split(", "))
  if label in _NAMES:
    return _NAMES[label]
  if re.fullmatch(r"\w+( o'clock|-thirty)", label):
    return f"clock showing {label}"
  if match := re.fullmatch(r"(\w+) button \(blood type\)", label):
    return f"{match[1]} blood type button"
  for words, noun in ((_SIGNS, "sign"), (_SYMBOLS, "symbol")):
    if label in words:
      return f"{label} {noun}"
  return f"{label} zodiac sign" if label in _ZODIAC else label


def _is_plural(noun: str) -> bool:
  """True for "grapes" and "men holding hands", not for "bus" or "compass"."""
  if noun.split()[0] in ("people", "men", "women", "palms"):
    return True
  head = _AFTER.split(noun, maxsplit=1)[0]
  return head.endswith("skis") or (
    head.endswith("s") and head[-2:] not in ("ss", "us", "is", "os")
  )


def article(noun: str) -> str:
  """ "a" or "an", by the sound that the noun begins with."""
  word = re.split(r"[ -]", noun, maxsplit=1)[0]
  if len(word) <= 3 and word.isupper() and word.isalpha():
    # Letters said one by one: an NG button, a CL button. NEW is a word.
    return "an" if word[0] in "AEFHILMNORSX" and word != "NEW" else "a"
  if re.match(r"(?:uni|eu|ewe|one\b|once\b|us[ae]|ut)", word.lower()):
    return "a"
  if re.match(r"(?:hour|herb|honest|x\b)", word.lower()):
    return "an"
  return "an" if word[0].lower() in "aeiou" else "a"


def noun_phrase(label: str) -> str:
  """The noun with its article, if it takes one: "an owl", "grapes"."""
  noun = name(label)
  bare = noun.startswith("the ") or _BARE & {noun, noun.split(" with ")[0]}
  if bare or _is_plural(noun):
    return noun
  return f"{article(noun)} {noun}"


@functools.cache
def caption(label: str, colour: str) -> str:
  """The sentence for an object on a background colour."""
  return TEMPLATE.format(
    noun=noun_phrase(label), colour=f"{article(colour)} {colour}"
  )
