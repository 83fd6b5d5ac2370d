"""`python -m projector`: the command line."""

from projector.cli.app import main

main()
