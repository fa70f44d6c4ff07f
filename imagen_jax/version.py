"""The version, read by setup.py without importing the package."""

VERSION = "0.1.0"
