"""A set of images as one page to look through: index.html beside the images.

Prompts stand under their category, each above its images in order; what made
them is in a table. All texts are escaped, and images are loaded as they come
into view, so that a page of thousands opens.
"""

import html
import itertools
import json
import urllib.parse
from collections.abc import Mapping

from imagen_jax.core import files
from imagen_jax.evals import html_report, image_set

PAGE = "index.html"
_STYLE = """<style>
.images { display: grid; gap: .3rem; margin: .3rem 0 1.4rem;
  grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); }
@media (max-width: 30rem) {
  .images { grid-template-columns: repeat(4, 1fr); } }
.images img { display: block; width: 100%; background: #eee; }
.prompt { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
</style>"""


def write(found: image_set.ImageSet, title: str) -> None:
  """Writes the page in the folder of the set, atomically."""
  files.atomic_write(found.folder / PAGE, page(found, title).encode())


def page(found: image_set.ImageSet, title: str) -> str:
  """The document; its links are relative to the folder of the set."""
  groups = found.by_prompt()
  prompts = sorted(found.prompts, key=lambda prompt: prompt.category)
  count = len(found.entries)
  parts = [
    _STYLE,
    html_report.paragraph(f"{count} images of {len(prompts)} prompts."),
  ]
  by_category = itertools.groupby(prompts, key=lambda prompt: prompt.category)
  for category, some in by_category:
    if category:
      parts.append(html_report.heading(category))
    for prompt in some:
      parts.append(_row(prompt.text, groups[prompt.text], found.made))
  if found.made:
    rows = [
      (name, _text(value))
      for name, value in sorted(found.made.items())
      if value not in ("", {}, None)
    ]
    parts += [
      html_report.heading("What made them"),
      html_report.table(("setting", "value"), rows),
    ]
  return html_report.page(title, parts)


def _row(text: str, entries: list[image_set.Entry], made: Mapping) -> str:
  seed = f", seed {made['seed']}" if "seed" in made else ""
  pictures = "".join(
    f'<a href="{link}"><img loading="lazy" src="{link}"'
    f' alt="{label}" title="{label}"></a>'
    for link, label in (
      (
        html.escape(urllib.parse.quote(entry.file)),
        html.escape(f"number {entry.index}{seed}"),
      )
      for entry in entries
    )
  )
  return (
    f'<p class="prompt">{html.escape(text) or "(no text)"}</p>'
    f'<div class="images">{pictures}</div>'
  )


def _text(value: files.Json) -> str:
  """A text as it is, all else as JSON."""
  if isinstance(value, str):
    return value
  return json.dumps(value, sort_keys=True, ensure_ascii=False)
