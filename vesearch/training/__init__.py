"""How the built-in segmenter is trained."""
