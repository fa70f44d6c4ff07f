"""Rates with their intervals as a plot of HTML and CSS: a row a category.

Text keeps its size however narrow the window is, which it does not in a
picture. Each row has a bar of shares and, below it on an axis from 0 to 100 %,
a dot with its interval.
"""

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from imagen_jax.evals import bootstrap

STYLE = """<style>
.plot { max-width: 46rem; margin: .6rem 0 1rem; }
.plot .row { display: grid; grid-template-columns: 11rem 1fr; gap: 0 .8rem;
  align-items: center; padding: .35rem 0; border-bottom: 1px solid #e4e4e4; }
.plot .name { overflow-wrap: anywhere; line-height: 1.25; }
.plot .name small { color: #555; display: block; }
.plot .shares { display: flex; height: 1.15rem; font-size: .78rem;
  line-height: 1.15rem; border-radius: .2rem; overflow: hidden; }
.plot .shares span { overflow: hidden; text-align: center; }
.plot .track { position: relative; height: 1.1rem; background:
  linear-gradient(#999, #999) 50% 50% / 1px 100% no-repeat,
  linear-gradient(#ccc, #ccc) 50% 50% / 100% 1px no-repeat; }
.plot .track i { position: absolute; top: .45rem; height: .2rem;
  background: #333; }
.plot .track b { position: absolute; top: .25rem; width: .6rem; height: .6rem;
  margin-left: -.3rem; border-radius: 50%; background: #111; }
.plot .axis { display: flex; justify-content: space-between; color: #555;
  font-size: .8rem; }
.plot .key { display: flex; flex-wrap: wrap; gap: .2rem 1rem;
  font-size: .85rem; }
.plot .key span::before { content: ""; display: inline-block; width: .8rem;
  height: .8rem; margin-right: .3rem; background: var(--colour); }
@media (max-width: 40rem) {
  .plot .row { grid-template-columns: 1fr; gap: .2rem; }
  .plot .name small { display: inline; margin-right: .8rem; }
  .plot .name small:first-of-type::before { content: "\\A"; white-space: pre; }
}
</style>"""

# Blue, grey, orange: apart for most who confuse colours; dark text on each.
_COLOURS = ("#7fb2e5", "#d5d5d5", "#f2b36b")


class Row(NamedTuple):
  """One line of the plot."""

  name: str
  count: int  # answers
  rate: bootstrap.Interval  # in [0, 1]
  shares: Mapping[str, float]  # in [0, 1], of at most three names


def plot(rows: Sequence[Row], *, low: str, high: str) -> str:
  """The HTML; `low` and `high` say what 0 and 100 % mean."""
  names = list(rows[0].shares) if rows else []
  key = "".join(
    f'<span style="--colour:{colour}">{html.escape(name)}</span>'
    for name, colour in zip(names, _COLOURS, strict=False)
  )
  lines = "\n".join(_row(row) for row in rows)
  axis = (
    '<div class="row"><div></div><div class="axis">'
    f"<span>0 %: {html.escape(low)}</span>"
    f"<span>100 %: {html.escape(high)}</span></div></div>"
  )
  return f'<div class="plot"><div class="key">{key}</div>{lines}{axis}</div>'


def percent(rate: bootstrap.Interval) -> str:
  """An interval as people read it: "39.5 % [38.7, 40.3]"."""
  value, low, high = (100 * number for number in rate)
  return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _row(row: Row) -> str:
  value, low, high = (100 * number for number in row.rate)
  shares = "".join(
    f'<span style="width:{100 * share:.2f}%;background:{colour}"'
    f' title="{html.escape(name)} {100 * share:.1f} %">'
    f"{f'{100 * share:.0f}' if share >= 0.08 else ''}</span>"
    for (name, share), colour in zip(row.shares.items(), _COLOURS, strict=False)
  )
  return (
    f'<div class="row"><div class="name">{html.escape(row.name)}'
    f"<small>{percent(row.rate)}</small>"
    f"<small>{row.count} answers</small></div>"
    f'<div><div class="shares">{shares}</div><div class="track">'
    f'<i style="left:{low:.2f}%;width:{high - low:.2f}%"></i>'
    f'<b style="left:{value:.2f}%"></b></div></div></div>'
  )
