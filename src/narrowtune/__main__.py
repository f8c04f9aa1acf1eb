"""`python -m narrowtune` and `accelerate launch -m narrowtune`."""

from narrowtune.cli import main

main()
