"""`unet-motion bench --card`: everything that only a graphics card can prove, in one run of some minutes.

`sizes.py` says how large everything is, on a card and in the rehearsal without one; `stages.py` runs the stages in
order of worth, each with a time of its own, and writes what there is after each of them. A file for each subject holds
what its stage measures.
"""
