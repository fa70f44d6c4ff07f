"""The page holds every number and the plot, and no markup of a setting."""

import numpy as np
import PIL.Image

from imagen_jax.evals import bootstrap, sweep_page, sweeps


def test_a_page_holds_points_plot_and_settings(tmp_path):
  plot = tmp_path / "plot.png"
  PIL.Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(plot)
  rows = [
    sweeps.Row(
      {"arm": "<b>mean</b>", "steps": steps},
      {"object": bootstrap.Interval(0.5, 0.4 + steps / 100, 0.625)},
    )
    for steps in (4, 8)
  ]
  path = tmp_path / sweep_page.NAME
  sweep_page.write(
    rows,
    path,
    title="A & B",
    plot=plot,
    notes=["None is apart."],
    settings={"seed": 0},
  )
  page = path.read_text()
  assert "0.500 [0.440, 0.625]" in page and "0.500 [0.480, 0.625]" in page
  assert "&lt;b&gt;mean" in page and "<b>" not in page
  assert "A &amp; B" in page and "data:image/png;base64," in page
  assert "None is apart." in page and "seed" in page
