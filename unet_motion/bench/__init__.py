"""Honest timing against diffusers and AnimateDiff-Evolved: equal weights, equal outputs first, then turns in one run.

`measure.py` times and weighs callables, `nets.py` builds the same network twice, `cases.py`, `kernel_cases.py` and
`evolved.py` hold what is compared and `catalogue.py` its sizes, `report.py` writes the table; `card/` is all
that a graphics card must prove, in one run. The command is `../cli/bench.py`.
"""
