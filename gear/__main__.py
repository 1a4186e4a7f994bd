"""`python3 -m gear`: the command line from a checkout."""

from gear.cli import program

program()
