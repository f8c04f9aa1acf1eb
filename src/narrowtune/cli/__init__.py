"""The command line: a thin layer over the library, one function a command."""

from narrowtune.cli.app import app, main

__all__ = ["app", "main"]
