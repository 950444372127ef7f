"""Micro-benchmarks of the wire, piece by piece: `python -m bench.micro`."""
