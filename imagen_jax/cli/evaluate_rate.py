"""`imagen evaluate rate`: human raters compare two sets of images."""

import argparse
import pathlib
import socket
from collections.abc import Sequence

import tqdm

from imagen_jax.cli import arguments
from imagen_jax.core import errors, files
from imagen_jax.evals import (
  image_set,
  rating_files,
  rating_plan,
  rating_report,
  rating_store,
)
from imagen_jax.serve import rating_app, rating_desk

_SUMMARY = """\
Serves a web page on which people rate two sets of images of the same prompts,
without knowing which is which, and reports what they said. Each rater gets a
link of their own, on a computer or a phone; who closes the page goes on later.

  drawbench  all images of a prompt side by side: which set is of higher
             quality, which represents the caption better; A, B or indifferent
  coco       a generated image (a) beside the real one (b): which is real; and
             each alone: does the caption describe it; yes, somewhat, no

A set is a folder that `imagen evaluate drawbench` or `imagen sample` wrote, or
any with a manifest.json (docs/rating.md). OUT gets ratings.sqlite, where every
answer that was acknowledged survives a crash, and report.html, report.json and
answers.csv when you stop with Ctrl-C. The same line goes on with the study."""

_EXAMPLES = (
  "imagen evaluate rate --a=new --b=old --raters=25 --out=ratings",
  "imagen evaluate rate --a=new --b=old --category=Colors --out=colors",
  "imagen evaluate rate --a=generated --b=coco --protocol=coco --limit=200 \\",
  "  --host=0.0.0.0 --port=8765 --out=coco_ratings",
  "imagen evaluate rate --report --out=ratings    # also while it serves",
)
_MAX_RATERS = 10000


def main(argv: Sequence[str]) -> None:
  """Serves until Ctrl-C, then reports; or reports alone."""
  args = arguments.parse(argv, _parser())
  if args.min_control is not None and not 0 <= args.min_control <= 1:
    raise errors.BadInput(
      f"--min_control={args.min_control}; it is a share, from 0 to 1."
    )
  if args.report:
    store = rating_store.open_study(pathlib.Path(args.out) / rating_store.FILE)
  else:
    store = _serve(args)
  try:
    report = rating_report.make(store, min_control=args.min_control)
    rating_files.write(report, args.out)
  finally:
    store.close()
  _print(report, pathlib.Path(args.out))


def _parser() -> arguments.Parser:
  parser = arguments.make("evaluate rate", _SUMMARY, examples=_EXAMPLES)
  add = parser.add_argument
  add("--a", metavar="FOLDER", help="a set; in coco the generated one")
  add("--b", metavar="FOLDER", help="the other; in coco the real one")
  add("--out", required=True, metavar="FOLDER", help="of the study; local disk")
  add(
    "--protocol", choices=("drawbench", "coco"), default="drawbench",
    help="what is asked (default drawbench)",
  )  # fmt: skip
  add("--name_a", metavar="NAME", help="in the report; default: the folder's")
  add("--name_b", metavar="NAME", help="raters see neither")
  add("--raters", type=int, default=2, metavar="N", help="links (default 2)")
  add("--seed", type=int, default=0, metavar="N", help="of orders and sides")
  add(
    "--samples", type=int, default=8, metavar="N",
    help="images of a prompt and set, at most (default 8)",
  )  # fmt: skip
  add("--category", metavar="NAME", help="its prompts alone")
  add("--limit", type=int, metavar="N", help="so many prompts, drawn by seed")
  add(
    "--control_every", type=int, default=10, metavar="N",
    help="a trial with a known answer for every N others; 0: none (default 10)",
  )  # fmt: skip
  add(
    "--min_control", type=float, metavar="SHARE",
    help="raters below are not counted (default: drawbench 0, coco 0.8)",
  )  # fmt: skip
  add(
    "--host", default="127.0.0.1", metavar="ADDRESS",
    help="0.0.0.0 lets other machines in, unencrypted (default 127.0.0.1)",
  )  # fmt: skip
  add("--port", type=int, default=8765, metavar="N", help="0: any free one")
  add("--report", action="store_true", help="only write the report of OUT")
  return parser


def _serve(args: argparse.Namespace) -> rating_store.Store:
  """Begins or goes on with the study, and serves it until Ctrl-C."""
  _check(args)
  sets = image_set.read(args.a), image_set.read(args.b)
  plan = rating_plan.make(
    *sets,
    protocol=args.protocol,
    names=_names(args),
    seed=args.seed,
    samples=args.samples,
    control_every=args.control_every,
    category=args.category,
    limit=args.limit,
  )
  image_set.check_other_images(*sets)
  out = files.check_writable(args.out)
  store = rating_store.create(out / rating_store.FILE, plan, raters=args.raters)
  try:
    total = len(plan.trials) * len(store.tokens())
    done = len(store.answers())
    with (
      _listen(args.host, args.port) as listening,
      tqdm.tqdm(total=total, initial=done, unit="page") as bar,
    ):
      desk = rating_desk.Desk(
        store,
        {"a": sets[0].folder, "b": sets[1].folder},
        lambda kept, _: bar.update(kept - bar.n),
      )
      _print_links(args.host, listening.getsockname()[1], store)
      _run(rating_app.make(desk), listening)
    return store
  except BaseException:
    store.close()
    raise


def _check(args: argparse.Namespace) -> None:
  if not args.a or not args.b:
    raise errors.BadInput(
      "two sets are rated: give --a=FOLDER and --b=FOLDER, or --report for the"
      " report of a study that was begun."
    )
  for name, low, high in (
    ("raters", 1, _MAX_RATERS), ("samples", 1, 64), ("limit", 1, 10**6),
    ("seed", 0, 2**32 - 1), ("control_every", 0, 10**6), ("port", 0, 65535),
  ):  # fmt: skip
    value = getattr(args, name)
    if value is not None and not low <= value <= high:
      raise errors.BadInput(
        f"--{name}={value}; it must be from {low} to {high}."
      )


def _names(args: argparse.Namespace) -> tuple[str, str]:
  """What the report calls the sets: never the same twice."""
  a = args.name_a or pathlib.Path(args.a).resolve().name
  b = args.name_b or pathlib.Path(args.b).resolve().name
  return (a, b) if a != b else (f"{a} (a)", f"{b} (b)")


def _listen(host: str, port: int) -> socket.socket:
  try:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)
  except OSError as error:
    raise errors.BadInput(
      f"cannot listen on {host} port {port} ({error.strerror or error}); give"
      " another --port, or --port=0 for any that is free."
    ) from error


def _print_links(host: str, port: int, store: rating_store.Store) -> None:
  shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
  shown = f"[{shown}]" if ":" in shown else shown
  answered = {number: len(store.answered(number)) for number in store.tokens()}
  pages = len(store.plan.trials)
  lines = [f"{pages} pages for each rater; Ctrl-C stops and reports. Links:"]
  for number, token in store.tokens().items():
    lines.append(
      f"  rater {number}: http://{shown}:{port}/r/{token}"
      + (f"  ({answered[number]} answered)" if answered[number] else "")
    )
  print("\n".join(lines), flush=True)


def _run(app, listening: socket.socket) -> None:
  try:
    import uvicorn
  except ImportError as error:
    raise errors.BadInput(
      "the rating page needs uvicorn; run: pip install uvicorn"
    ) from error
  config = uvicorn.Config(
    app, log_config=None, access_log=False, timeout_graceful_shutdown=5
  )
  try:
    uvicorn.Server(config).run(sockets=[listening])
  except KeyboardInterrupt:
    print(flush=True)


def _print(report: rating_report.Report, out: pathlib.Path) -> None:
  for measure in report.measures:
    print(f"{measure.name}: {rating_files.finding(measure, report.plan.names)}")
  pages = sum(row.answered for row in report.raters)
  print(f"{pages} pages answered\nreport: {out / rating_files.HTML}")
