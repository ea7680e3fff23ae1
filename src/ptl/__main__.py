"""`python -m ptl` is the command `ptl`."""

from ptl.cli import main

main(prog_name="python -m ptl")
