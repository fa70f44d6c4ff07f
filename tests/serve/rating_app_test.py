"""The pages of raters: blind, escaped, by token, and every answer once."""

import io
import re

import numpy as np
import PIL.Image
import pytest
from fastapi import testclient

from imagen_jax.evals import rating_plan, rating_store
from imagen_jax.serve import rating_app, rating_desk
from tests.evals import rating_sets

BOTH = {"quality": "left", "alignment": "right"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
  return rating_sets.pair(tmp_path_factory.mktemp("sets"), n=5)


@pytest.fixture
def study(sets, tmp_path):
  plan = rating_plan.make(*sets, protocol="drawbench", control_every=5)
  store = rating_store.create(tmp_path / "r.sqlite", plan, raters=2)
  seen = []
  desk = rating_desk.Desk(
    store,
    {"a": sets[0].folder, "b": sets[1].folder},
    lambda done, total: seen.append((done, total)),
  )
  client = testclient.TestClient(rating_app.make(desk), follow_redirects=False)
  yield desk, client, store.tokens(), seen
  store.close()


def links(page: str) -> list[str]:
  return re.findall(r'src="(/r/[^"]+)"', page)


def post_link(page: str) -> str:
  return re.search(r'action="([^"]+)"', page)[1]


def test_a_rater_answers_all_pages_and_no_page_twice(study):
  desk, client, tokens, seen = study
  home = f"/r/{tokens[1]}"
  met = []
  for number in range(1, 7):
    page = client.get(home).text
    assert f"Page {number} of 6" in page
    met.append(post_link(page))
    reply = client.post(met[-1], data=BOTH)
    assert (reply.status_code, reply.headers["location"]) == (303, home)
  assert "Thank you" in client.get(home).text
  assert len(set(met)) == 6
  assert seen == [(k, 12) for k in range(1, 7)]
  order = [turn.trial for turn in rating_plan.schedule(desk.store.plan, 1)]
  assert [int(link.rpartition("/")[2]) for link in met] == order


def test_an_answer_sent_again_changes_nothing_and_another_is_refused(study):
  desk, client, tokens, _ = study
  link = post_link(client.get(f"/r/{tokens[1]}").text)
  other = BOTH | {"quality": "right"}
  codes = [client.post(link, data=d).status_code for d in (BOTH, BOTH, other)]
  assert codes == [303, 303, 409]
  assert [a.choices for a in desk.store.answers()] == [BOTH]


def test_pages_and_images_do_not_say_which_set_it_is(study, sets):
  desk, client, tokens, _ = study
  for rater, turns in (
    (r, rating_plan.schedule(desk.store.plan, r)) for r in (1, 2)
  ):
    page = client.get(f"/r/{tokens[rater]}").text
    turn = turns[0]
    trial = desk.store.plan.trials[turn.trial]
    shown = (*trial.a, *trial.b) if turn.left == "a" else (*trial.b, *trial.a)
    found = links(page)
    assert len(found) == len(shown) == 4
    for link, one in zip(found, shown, strict=True):
      reply = client.get(link)
      assert reply.headers["content-type"] == "image/png"
      with PIL.Image.open(io.BytesIO(reply.content), formats=("PNG",)) as image:
        assert not image.info  # the file on disk has a text chunk
        if not one.coarse:
          shade = {"a": 50, "b": 200}[one.source]
          assert (np.asarray(image)[..., 0] == shade).all()
    for word in ("secret", sets[0].folder.name + "/", ".png"):
      assert word not in page.replace(tokens[rater], "")


def test_the_same_image_has_another_name_for_each_rater(study):
  _, client, tokens, _ = study
  names = [
    {link.rpartition("/")[2] for link in links(client.get(f"/r/{t}").text)}
    for t in tokens.values()
  ]
  assert not names[0] & names[1]
  stranger = f"/r/{tokens[2]}/i/{min(names[0])}"
  assert client.get(stranger).status_code == 404


@pytest.mark.parametrize(
  "path",
  [
    "/",
    "/r/",
    "/r/guess",
    "/r/TOKEN/i/../../../../etc/passwd",
    "/r/TOKEN/i/..%2f..%2f..%2fetc%2fpasswd",
    "/r/TOKEN/i/000-0.png",
    "/r/guess/i/000-0.png",
    "/static/..%2frating_app.py",
    "/static/frame.html",
    "/docs",
    "/openapi.json",
  ],
)
def test_what_was_guessed_is_not_there(study, path):
  _, client, tokens, _ = study
  reply = client.get(path.replace("TOKEN", tokens[1]))
  assert reply.status_code == 404
  assert "root:" not in reply.text
  if "guess" in path:
    assert client.post(f"{path}/t/0", data=BOTH).status_code == 404


def test_html_in_a_prompt_is_text(study):
  desk, client, tokens, _ = study
  while (turn := desk.next(1)[1]) is not None:
    if desk.store.plan.trials[turn.trial].prompt == rating_sets.SCRIPT:
      break
    desk.answer(1, turn.trial, BOTH)
  reply = client.get(f"/r/{tokens[1]}")
  assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; a" in reply.text
  assert "<script>alert" not in reply.text
  policy = reply.headers["content-security-policy"]
  assert "default-src 'none'" in policy
  assert "unsafe" not in policy
  assert reply.headers["referrer-policy"] == "no-referrer"
  assert reply.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
  ("body", "message"),
  [
    ("", "takes left, indifferent, right"),
    ("quality=left", "alignment"),
    ("quality=left&quality=right&alignment=left", "answered twice"),
    ("quality=left&alignment=left&x=1", "nothing was asked"),
    ("quality=%3Cb%3E&alignment=left", "&#39;&lt;b&gt;&#39;"),
    ("quality=" + "x" * 5000, "at most 4096 bytes"),
    (b"\xff\xfe=1", "cannot be read"),
  ],
)
def test_forms_that_are_no_answers(study, body, message):
  desk, client, tokens, _ = study
  reply = client.post(f"/r/{tokens[1]}/t/0", content=body)
  assert reply.status_code == 400
  assert message in reply.text
  for trial, code in (("99", 400), ("x", 404), ("9" * 40, 404)):
    said = client.post(f"/r/{tokens[1]}/t/{trial}", data=BOTH)
    assert said.status_code == code
  assert desk.store.answers() == []


def test_a_coarse_image_keeps_its_size_and_mean():
  pixels = np.random.default_rng(0).integers(0, 256, (64, 40, 3), np.uint8)
  coarse = rating_desk.coarsen(pixels)
  assert coarse.shape == pixels.shape
  assert abs(coarse.mean() - pixels.mean()) < 1
  assert len(np.unique(coarse.reshape(-1, 3), axis=0)) <= 8 * 5


def test_coco_asks_of_one_image_alone(sets, tmp_path):
  plan = rating_plan.make(*sets, protocol="coco", control_every=0)
  store = rating_store.create(tmp_path / "c.sqlite", plan, raters=1)
  desk = rating_desk.Desk(store, {"a": sets[0].folder, "b": sets[1].folder})
  client = testclient.TestClient(rating_app.make(desk), follow_redirects=False)
  (token,) = store.tokens().values()
  seen = {"pair": 0, "alone": 0}
  while "Thank you" not in (page := client.get(f"/r/{token}").text):
    alone = "Somewhat" in page
    assert len(links(page)) == (1 if alone else 2)
    assert ("<span>Caption</span>" in page) == alone
    data = {"caption": "somewhat"} if alone else {"real": "right"}
    assert client.post(post_link(page), data=data).status_code == 303
    seen["alone" if alone else "pair"] += 1
  store.close()
  assert seen == {"pair": 5, "alone": 10}
