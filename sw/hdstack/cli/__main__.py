"""`python -m hdstack.cli` is `hdsnic`: what commands use to start one another."""

from . import main

main()
