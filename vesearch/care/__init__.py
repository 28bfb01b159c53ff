"""Looking after a collection: its state, its space, what is wrong with it, how that is mended.

Nothing here computes entities or vectors: it asks the stages to.
"""
