"""The subcommands of `purvey`, one module for each or each group; they meet in `cli/main.py`."""
