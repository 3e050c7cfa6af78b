"""Honest timing against diffusers: equal weights, equal outputs first, then turns in one run.

`measure.py` times and weighs callables, `nets.py` builds the same network twice, `cases.py` holds what is compared,
`report.py` writes the table and `cli.py` is `unet-motion bench`.
"""
