"""A seeded random walk of a real daemon on a real kernel, checked against an independent model after each settling.

`files` are the configurations it moves between, `truth` knows what is really the case and what that demands, `events`
are what can happen, `kernel`, `packets` and `witness` look whether the demands are met, `walk` puts it together.
"""
