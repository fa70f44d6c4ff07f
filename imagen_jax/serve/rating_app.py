"""The web pages of human raters: one trial a page, by a link with a token.

  GET  /r/TOKEN            the first trial that this rater has not answered
  POST /r/TOKEN/t/TRIAL    an answer; a redirect to the next trial once it is on
                           disk, 409 where another answer was kept before
  GET  /r/TOKEN/i/IMAGE    one of this rater's images

A wrong token, trial or image is 404. All texts are escaped by Jinja, and a
policy forbids scripts but ours.

A plain form works without JavaScript; assets/rating/rating.js adds keys.
FastAPI and Jinja2 are of the extra "serve".
"""

import pathlib
import sqlite3
import urllib.parse
from collections.abc import Mapping

from absl import logging

from imagen_jax.core import errors
from imagen_jax.serve import rating_desk

ASSETS = pathlib.Path(__file__).parent.parent / "assets" / "rating"
_STATIC = {"rating.css": "text/css", "rating.js": "text/javascript"}
_HEADERS = {
  "Cache-Control": "no-store",
  "Content-Security-Policy": (
    "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src"
    " 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
  ),
  "Referrer-Policy": "no-referrer",  # the token is in the address
  "X-Content-Type-Options": "nosniff",
}
_MAX_BODY = 4096  # bytes of an answer


def make(desk: rating_desk.Desk):
  """The ASGI application; BadInput where FastAPI or Jinja2 is missing."""
  try:
    import fastapi
    import jinja2
    from fastapi import concurrency, responses
  except ImportError as error:
    raise errors.BadInput(
      "the rating page needs FastAPI, uvicorn and Jinja2; run: pip install"
      " fastapi uvicorn jinja2"
    ) from error
  templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(ASSETS), autoescape=True
  )
  app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
  threaded = concurrency.run_in_threadpool

  def html(name: str, status: int, values: Mapping) -> responses.HTMLResponse:
    text = templates.get_template(name).render(dict(values))
    return responses.HTMLResponse(text, status)

  def say(status: int, title: str, text: str, link: str = ""):
    values = {"title": title, "text": text, "link": link}
    return html("message.html", status, values)

  def nothing():
    return say(404, "Nothing here", "Open the link that you were sent.")

  def show(token: str):
    rater = desk.store.rater(token)
    if rater is None:
      return nothing()
    done, turn = desk.next(rater)
    if turn is None:
      return say(200, "All done", "Every page is answered. Thank you.")
    page = desk.page(rater, token, turn) | {"number": done + 1}
    return html("trial.html", 200, page)

  def keep(token: str, trial: str, body: bytes | None):
    rater = desk.store.rater(token)
    if rater is None or not trial.isdecimal() or len(trial) > 9:
      return nothing()
    home = f"/r/{token}"
    try:
      choices = _choices(body)
      outcome = desk.answer(rater, int(trial), choices)
    except errors.BadInput as error:
      return say(400, "Not an answer", str(error), home)
    except sqlite3.Error as error:
      logging.error("An answer was not kept: %s", error)
      return say(
        503, "Not kept", "The answer could not be stored; send it again.", home
      )
    if outcome == "refused":
      return say(
        409,
        "Answered before",
        "This page has another answer of yours, which stays.",
        home,
      )
    return responses.RedirectResponse(home, 303)

  def picture(token: str, name: str):
    rater = desk.store.rater(token)
    shown = None if rater is None else desk.shown(rater, name)
    if shown is None:
      return nothing()
    try:
      data = desk.picture(shown)
    except errors.BadInput as error:
      logging.error("%s", error)
      return nothing()
    kept = {"Cache-Control": "private, max-age=86400"}
    return responses.Response(data, media_type="image/png", headers=kept)

  @app.middleware("http")
  async def headers(request: fastapi.Request, go_on):
    response = await go_on(request)
    for name, value in _HEADERS.items():
      response.headers.setdefault(name, value)
    return response

  @app.get("/r/{token}")
  def get_page(token: str):
    return show(token)

  @app.post("/r/{token}/t/{trial}")
  async def post_answer(token: str, trial: str, request: fastapi.Request):
    body = await _body(request)
    return await threaded(keep, token, trial, body)

  @app.get("/r/{token}/i/{name}")
  def get_image(token: str, name: str):
    return picture(token, name)

  @app.get("/static/{name}")
  def get_static(name: str):
    if name not in _STATIC:
      return nothing()
    return responses.Response(
      (ASSETS / name).read_bytes(), media_type=_STATIC[name]
    )

  @app.exception_handler(404)
  async def not_found(request: fastapi.Request, error: Exception):
    return nothing()

  return app


async def _body(request) -> bytes | None:
  """What was sent, or None where it is longer than an answer."""
  body = b""
  async for piece in request.stream():
    body += piece
    if len(body) > _MAX_BODY:
      return None
  return body


def _choices(body: bytes | None) -> dict[str, str]:
  """{question: answer} of a form; BadInput where a question comes twice."""
  if body is None:
    raise errors.BadInput(f"an answer has at most {_MAX_BODY} bytes.")
  try:
    pairs = urllib.parse.parse_qsl(body.decode(), max_num_fields=8)
  except ValueError as error:
    raise errors.BadInput("the form cannot be read; send it again.") from error
  if len(pairs) != len(dict(pairs)):
    raise errors.BadInput("a question was answered twice; answer it once.")
  return dict(pairs)
