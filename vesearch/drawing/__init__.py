"""Pictures of entities and matches.

Nothing here finds any.
"""
