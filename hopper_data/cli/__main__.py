"""`python -m hopper_data.cli` is `hopper-data`."""

from hopper_data.cli.main import main

if __name__ == "__main__":
    main(prog_name="hopper-data")
