"""Published weights: what there is, where it lies, and how it gets there.

No network is built here.
"""
