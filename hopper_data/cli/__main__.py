"""`python -m hopper_data.cli` is `hopper-data`."""

from hopper_data.cli.main import main

main(prog_name="hopper-data")
