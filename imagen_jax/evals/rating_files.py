"""A report of ratings on disk: report.html, report.json and answers.csv.

answers.csv has a line for each answer to each question, in the order in which
they came, with what each side was: enough to redo every number elsewhere.
"""

import csv
import datetime
import io

from imagen_jax.core import files
from imagen_jax.evals import html_report, interval_plot, rating_report

HTML, JSON, CSV = "report.html", "report.json", "answers.csv"
_COLUMNS = (
  "time", "rater", "rater_kept", "trial", "kind", "prompt", "category",
  "question", "left", "choice", "meaning", "control", "right",
)  # fmt: skip
_METHOD = (
  "Rates are means of answers; an answer of no preference, or of somewhat,"
  " counts one half. Intervals are of 95 %: the wider of Wilson's and of a"
  " bootstrap over prompts and raters. Agreement is Krippendorff's alpha for"
  " interval data (1 perfect, 0 as by chance) and the share of equal answers"
  " among all pairs to one prompt. Control trials are in none of these."
)


def write(report: rating_report.Report, out: files.PathLike) -> None:
  """Writes all three, each atomically."""
  out = files.absolute(out)
  files.write_json(out / JSON, rating_report.to_json(report))
  files.atomic_write(out / CSV, _csv(report).encode())
  files.atomic_write(out / HTML, page(report).encode())


def page(report: rating_report.Report) -> str:
  """The report as one HTML document; all of its texts are escaped."""
  a, b = report.plan.names
  raters = [row for row in report.raters if row.answered]
  left_out = sum(not row.kept for row in raters)
  parts = [
    interval_plot.STYLE,
    html_report.paragraph(
      f"Protocol {report.plan.protocol}: {a} (a) and {b} (b),"
      f" {len({t.prompt for t in report.plan.trials})} prompts,"
      f" {len(raters)} of {len(report.raters)} raters have answered"
      + (f"; {left_out} are left out for their controls." if left_out else ".")
    ),
  ]
  if not report.measures:
    parts.append(html_report.paragraph("No answer has been given yet."))
  for measure in report.measures:
    parts += [
      html_report.heading(measure.title),
      html_report.paragraph(finding(measure, report.plan.names)),
      interval_plot.plot(measure.rows, low=measure.low, high=measure.high),
      html_report.paragraph(_agreement(measure)),
    ]
  parts += [
    html_report.heading("Raters"),
    html_report.table(
      ("rater", "pages answered", "controls right", "counted"),
      [
        (
          str(row.rater),
          f"{row.answered} of {len(report.plan.trials)}",
          f"{row.right} of {row.controls}",
          "yes" if row.kept else f"no: below {report.min_control:.0%}",
        )
        for row in report.raters
      ],
    ),
    html_report.heading("How it is counted"),
    html_report.paragraph(_METHOD),
  ]
  return html_report.page(f"Ratings of {a} and {b}", parts)


def finding(measure: rating_report.Measure, names: tuple[str, str]) -> str:
  """One sentence on all prompts, with no more than the interval allows."""
  rate = measure.rows[0].rate
  said = f"{interval_plot.percent(rate)} of {measure.rows[0].count} answers"
  if measure.name.startswith("caption"):
    return f"The caption describes the image: {said}."
  if measure.name == "real":
    return f"{names[0]} is taken for the real image: {said}."
  if rate.low > 0.5 or rate.high < 0.5:
    better = names[0] if rate.low > 0.5 else names[1]
    return f"{better} is preferred; the share of {names[0]} is {said}."
  return (
    f"No preference is shown; the share of {names[0]} is {said}, and the"
    " interval holds 50 %."
  )


def _agreement(measure: rating_report.Measure) -> str:
  if measure.same is None:
    return "Agreement: no prompt has the answers of two raters."
  alpha = "not defined" if measure.alpha is None else f"{measure.alpha:.2f}"
  return f"Agreement: alpha {alpha}; {100 * measure.same:.0f} % equal answers."


def _csv(report: rating_report.Report) -> str:
  kept = {row.rater: row.kept for row in report.raters}
  buffer = io.StringIO(newline="")
  writer = csv.writer(buffer)
  writer.writerow(_COLUMNS)
  for s in report.said:
    trial = report.plan.trials[s.trial]
    right = trial.expected.get(s.question)
    alone = trial.a[0].source if trial.kind == "single" else s.left
    writer.writerow([
      datetime.datetime.fromtimestamp(s.at, datetime.UTC).isoformat(),
      s.rater,
      int(kept[s.rater]),
      s.trial,
      trial.kind,
      trial.prompt,
      trial.category,
      s.question,
      alone,
      s.choice,
      s.meaning,
      int(right is not None),
      "" if right is None else int(s.meaning in right),
    ])  # fmt: skip
  return buffer.getvalue()
