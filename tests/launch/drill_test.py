"""A real trainer behind a fake gcloud, preempted in three ways.

Its worker is a folder of this machine, where launch/tpu/worker.sh runs as it
would there. The run must end in the bits of one that was left alone.
"""

import os
import pathlib
import sys

import pytest

from tests.launch.launcher import FLAGS, ROOT, Launcher, write_program
from tests.train import tiny_run

# How attempt K ends, one a line; on top of it "lost" takes the slice away.
ENDS = (
  "sigterm@after_step:2",
  "kill@save.after_manifest:1",
  "kill@save.before_manifest:2 lost",
)
TRAINER = f"""\
#!/bin/bash
# -m imagen_jax train --workdir=FOLDER --coordinator=auto
set -euo pipefail
attempt="$(cat "$HOME/imagen-base/attempt")"
fault="$(sed -n "${{attempt}}p" "$FAKE_CLOUD/ends")"
if [[ -n "$fault" ]]; then export IMAGEN_FAULT="${{fault% lost}}"; fi
workdir="${{4#--workdir=}}"
mkdir -p "$workdir"
cd "{ROOT}"
exec "{sys.executable}" -m tests.train.tiny_run \\
  "{{\\"workdir\\": \\"$workdir\\", \\"steps\\": $(cat "$FAKE_CLOUD/steps")}}"
"""
# pip brings a uv that makes an environment whose Python is the trainer.
PIP = """\
#!/bin/bash
mkdir -p "$HOME/imagen-uv/bin"
cat > "$HOME/imagen-uv/bin/uv" << 'END'
#!/bin/bash
if [[ $1 == venv ]]; then
  mkdir -p "${@: -1}/bin"
  cp "$FAKE_CLOUD/trainer" "${@: -1}/bin/python"
fi
END
chmod +x "$HOME/imagen-uv/bin/uv"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  "preemptions", [3, pytest.param(10, marks=pytest.mark.nightly)]
)
def test_preempted_or_not_it_ends_in_the_same_bits(
  tmp_path: pathlib.Path, preemptions: int
):
  steps = 4 * preemptions + 4  # more than they reach together
  alone = tiny_run.start({"workdir": tmp_path / "alone", "steps": steps})
  launcher = Launcher(tmp_path / "launcher")
  ends = [ENDS[i % len(ENDS)] for i in range(preemptions)]
  launcher.set(homes=True, workers=1, plan=[end.split()[-1] for end in ends])
  (launcher.cloud / "ends").write_text("\n".join(ends) + "\n")
  (launcher.cloud / "steps").write_text(str(steps))
  write_program(launcher.cloud / "trainer", TRAINER)
  write_program(launcher.folder / "bin" / "python3", PIP)
  jax = {n: v for n, v in os.environ.items() if n.startswith("JAX_")}
  workdir = tmp_path / "preempted"
  process = launcher.start(
    *FLAGS,
    "--spot",
    "--",
    f"--workdir={workdir}",
    XLA_FLAGS="",
    FAKE_PAUSE="0.2",
    **jax,
  )
  _, errors = process.communicate(timeout=600)
  assert process.returncode == 0, errors
  output, _ = alone.communicate(timeout=120)
  assert alone.returncode == 0, output

  codes = [row["code"] for row in launcher.ledger("end")]
  lost = [row["lost"] for row in launcher.ledger("end")]
  expected = [(42, "no"), (137, "no"), (143, "yes")]
  assert list(zip(codes, lost, strict=True)) == [
    *(expected[i % len(ENDS)] for i in range(preemptions)),
    (0, "no"),
  ]
  assert len(launcher.calls("create")) == 1 + lost.count("yes")
  digest = (workdir / "digest.txt").read_text()
  assert digest == (tmp_path / "alone" / "digest.txt").read_text()
  logged = [row["step"] for row in tiny_run.rows(workdir)]
  assert logged == list(range(1, steps + 1))
