"""Forks servers of the rating page: python rating_server.py STUDY SET_A SET_B.

Each line on stdin starts one; its process id and port are printed once it
listens. All share the imports of this process, so that a start takes moments.
"""

import os
import pathlib
import socket
import sys

import fastapi
import fastapi.concurrency
import jinja2
import uvicorn

from imagen_jax.evals import rating_store
from imagen_jax.serve import rating_app, rating_desk


def serve(study: str, folders: dict[str, pathlib.Path]) -> None:
  listening = socket.create_server(("127.0.0.1", 0))
  store = rating_store.open_study(study)
  app = rating_app.make(rating_desk.Desk(store, folders))
  print(os.getpid(), listening.getsockname()[1], flush=True)
  config = uvicorn.Config(app, log_level="error", access_log=False)
  uvicorn.Server(config).run(sockets=[listening])


def main(study: str, a: str, b: str) -> None:
  # What these import when they are first used, once for all.
  config = uvicorn.Config(fastapi.FastAPI())
  config.load()
  config.get_loop_factory()
  jinja2.Environment()
  for _ in sys.stdin:
    if os.fork() == 0:
      os.close(0)
      serve(study, {"a": pathlib.Path(a), "b": pathlib.Path(b)})
      os._exit(0)


if __name__ == "__main__":
  main(*sys.argv[1:])
