"""How networks are trained: an embedder on a collection's own crops, and the shipped segmenter.

No store is written here, and nothing that searches imports this.
"""
