"""`python -m joulegate` is `joulegate`."""

from joulegate.cli import main

main(prog_name="joulegate")
