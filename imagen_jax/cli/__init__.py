"""The command line: flags in, a call out."""
