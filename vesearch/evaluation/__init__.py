"""How good the entities and the matches are, measured on labelled photos.

No store is read or made here.
"""
