"""Benchmarks: the same applications on Headrace and on its peers. `python -m bench --help`; README.md says the rest."""
