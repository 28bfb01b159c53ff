"""How the built-in segmenter is trained.

Nothing that a user runs imports this: it is for making the weights that are shipped.
"""
