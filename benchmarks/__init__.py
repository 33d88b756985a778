"""One module per bar; `python -m benchmarks [BAR ...]` measures and writes dated reports."""
