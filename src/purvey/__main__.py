"""Run the command line with `python -m purvey`."""

from purvey.cli.main import run

if __name__ == "__main__":
    run()
