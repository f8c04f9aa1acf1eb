"""A few sentences to train on, so that the examples need no data."""

TEXTS = [
    "How many red circles are there? 3",
    "How many blue squares are there? 2",
    "How many green stars are there? 5",
    "How many red squares are there? 1",
] * 8
