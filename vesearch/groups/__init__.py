"""Groups over the whole collection: near-copies, the same thing in many photos, frequent things.

No model runs here: all is told from the catalogue, and from the vectors of the index.
"""
