"""`python -m imagen_jax` is the command `imagen`."""

from imagen_jax.cli import main

if __name__ == "__main__":
  main.entry()
