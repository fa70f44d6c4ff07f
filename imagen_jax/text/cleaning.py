r"""Captions made uniform before they are cut into tokens, by name.

  none        as they are
  lower       lower case, no white space around
  deepfloyd   what DeepFloyd IF was trained on, and expects: captions of the
              web without links, markup, file names, codes and adverts

DeepFloyd's cleaning is a fixed list of steps, run twice. Its oddities are kept,
since the model has seen their results: text is lowered before it is mended, so
that little is; "a.it" is a web address; each run takes a sign off each end.

The time of a step is linear in the text, so that a caption of 1 MB does no
harm: where the plain pattern would try every start anew, it is tied to the
start of a run, `(?<!\S)`, or keeps what it has eaten, `++`; and a long text
full of "<" is not read as markup.
"""

import difflib
import html
import importlib.util
import re
import urllib.parse
import warnings
from collections.abc import Callable
from typing import NamedTuple

from imagen_jax.core import errors

_LIBRARIES = ("bs4", "ftfy")


class Rule(NamedTuple):
  """What to look for, and what to put there."""

  pattern: str
  by: str = ""


def _links(scheme: str) -> Rule:
  """Web addresses: the scheme with its slashes, and host names with paths.

  The third branch passes over words that hold no host name, as a whole, and
  puts them back: no later start in such a word can find one.
  """
  word = "[a-z0-9.-]"
  return Rule(
    rf"\b{scheme}:(?:/{{1,3}}|[a-z0-9%])"
    rf"|\b{word}+\.(?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
    rf"|((?:\B{word})+|(?:(?!\b{scheme}:){word})+)",
    r"\1",
  )


_FILE_TYPES = "(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"

# Of the lowered text.
_LINKS = (
  Rule("<person>", "person"),  # a name that the data set's makers hid
  _links("https?"),
  _links("www"),
)

# Of the text without markup.
_SIGNS = (
  Rule(r"@\w+"),  # names of accounts
  Rule(r"[\u31c0-\u9fff]+"),  # Chinese signs, strokes and enclosed letters
  # All dashes to one, the Cyrillic, Hebrew and East Asian too.
  Rule(
    r"[-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    r"\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d]+",
    "-",
  ),
  Rule(r"[`\xb4\xab\xbb\u201c\u201d\xa8]", '"'),  # double quotes to one
  Rule(r"[\u2018\u2019]", "'"),  # and single ones
  Rule(r"&quot;?"),  # what is left of markup
  Rule(r"&amp"),
  Rule(r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # addresses of computers
  Rule(r"\d:\d\d\s+$"),  # numbers of articles, at the end
  Rule(r"\\n", " "),  # line breaks that were spelt out
  Rule(r"#\d{1,3}\b"),  # places in a list
  Rule(r"#\d{5,}\b"),
  Rule(r"\b\d{6,}\b"),  # long numbers
  Rule(rf"(?<!\S)\S+\.{_FILE_TYPES}"),  # file names
  Rule(r"[\"']{2,}", '"'),  # quotes for emphasis
  Rule(r"\.{2,}", " "),  # dots for silence
  # Signs that are no part of a sentence.
  Rule(
    r"[#\xae\u2022\xa9\u2122&@\xb7\xba\xbd\xbe\xbf\xa1\xa7~()\[\]{}|\\/*]+", " "
  ),
  Rule(r"(?<!\s)\s++\.\s+", " "),  # a lone dot
)

# Of the mended text.
_CODES = (
  Rule(r"\b[a-zA-Z]{1,3}\d{3,15}\b"),  # articles: jc6640
  Rule(r"\b[a-zA-Z]++\d++[a-zA-Z]++\b"),  # jc6640vc
  Rule(r"\b\d++[a-zA-Z]++\d++\b"),  # 6640vc231
  Rule(r"(?:worldwide\s+)?(?:free\s+)?shipping"),  # adverts
  Rule(r"(?:free\s)?download(?:\sfree)?"),
  Rule(r"\bclick\b\s(?:for|on)\s\w+"),
  Rule(rf"\b{_FILE_TYPES}(?:\simages?)?"),  # "jpg images"
  Rule(r"\bpage\s+\d+\b"),
  Rule(r"\b\d*+[a-zA-Z]++\d++[a-zA-Z]++\d[a-zA-Z\d]*+\b", " "),  # j2d1a2a
  # Sizes: 1920x1080, with a Latin or Cyrillic x, or a times sign.
  Rule(r"\b\d++(?:\.\d*+)?[x\u0445\xd7]\d++(?:\.\d*)?\b"),
  Rule(r"\b\s+:\s+", ": "),  # no space before a colon
  Rule(r"(\D[,./])\b", r"\1 "),  # a space behind a comma or a dot
  Rule(r"\s+", " "),
  Rule(r"^[\"']([\w\W]+)[\"']$", r"\1"),  # quotes around it all
  Rule(r"^['_,\-:;]"),  # signs at the start
  Rule(r"['_,\-:+]$"),  # and at the end
  Rule(r"^\.\S+$"),  # one word behind a dot
)

_JOINTS = re.compile("[-_]")
# More digits than Python turns into a number; U+FFFD is what they come to.
_HUGE_REFERENCE = re.compile("&#[0-9]{4300,};?")
# Tags times characters: the parser may read all the rest for every tag. No
# text of up to 2,048 characters is over it.
_MAX_MARKUP = 1 << 22


def clean(name: str, caption: str) -> str:
  """The caption, cleaned in the way that `name` says."""
  return cleaner(name)(caption)


def cleaner(name: str) -> Callable[[str], str]:
  """The way of cleaning of that name."""
  if name not in _CLEANERS:
    close = difflib.get_close_matches(name, _CLEANERS, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise errors.BadInput(
      f"unknown cleaning {name!r}; known: {', '.join(_CLEANERS)}.{hint}"
    )
  if name == "deepfloyd":
    missing = [m for m in _LIBRARIES if importlib.util.find_spec(m) is None]
    if missing:
      raise errors.BadInput(
        f"cleaning {name!r} needs {' and '.join(missing)}; run: pip install"
        ' "imagen_jax[t5]".'
      )
  return _CLEANERS[name]


def _none(caption: str) -> str:
  return caption


def _lower(caption: str) -> str:
  return caption.lower().strip()


def _deepfloyd(caption: str) -> str:
  return _deepfloyd_once(_deepfloyd_once(caption))


_CLEANERS = {"none": _none, "lower": _lower, "deepfloyd": _deepfloyd}


def _deepfloyd_once(text: str) -> str:
  text = urllib.parse.unquote_plus(text).strip().lower()
  text = _replace(_LINKS, text)
  text = _without_markup(text)
  text = _replace(_SIGNS, text)
  if len(_JOINTS.findall(text)) > 3:  # this-is-my-cute-cat
    text = _JOINTS.sub(" ", text)
  text = _mended(text)
  return _replace(_CODES, text).strip()


def _replace(rules: tuple[Rule, ...], text: str) -> str:
  for rule in rules:
    text = re.sub(rule.pattern, rule.by, text)
  return text


def _without_markup(text: str) -> str:
  """The text of a piece of HTML."""
  tags = text.count("<")
  if tags * len(text) > _MAX_MARKUP or not (tags or "&" in text):
    return text
  import bs4

  # The parser needs valid unicode, and numbers that Python can read.
  text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
  text = _HUGE_REFERENCE.sub("\ufffd", text)
  with warnings.catch_warnings():
    # That a caption looks like a path or an address.
    warnings.simplefilter("ignore")
    try:
      return bs4.BeautifulSoup(text, features="html.parser").text
    except bs4.exceptions.ParserRejectedMarkup:
      return text  # no markup, then


def _mended(text: str) -> str:
  """Unicode that was decoded wrongly made right, and references resolved."""
  import ftfy

  text = ftfy.fix_text(text)
  for _ in range(2):
    text = html.unescape(_HUGE_REFERENCE.sub("\ufffd", text))
  return text.strip()
