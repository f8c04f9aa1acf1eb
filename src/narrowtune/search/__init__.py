"""Which way of teaching to use, found within a budget of time, memory and loss."""

from narrowtune.search.budget import Budget
from narrowtune.search.candidates import default_arms
from narrowtune.search.folder import RECOMMENDED, refuse_taken, write_recommended
from narrowtune.search.search import recommend

__all__ = [
    "RECOMMENDED",
    "Budget",
    "default_arms",
    "recommend",
    "refuse_taken",
    "write_recommended",
]
