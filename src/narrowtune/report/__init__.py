"""A record as people read it: in a terminal and as one HTML file."""

from narrowtune.report.html import render_html, write_html
from narrowtune.report.predictions import read_runs, read_samples
from narrowtune.report.sentence import headline
from narrowtune.report.terminal import print_terminal

__all__ = ["headline", "print_terminal", "read_runs", "read_samples", "render_html", "write_html"]
