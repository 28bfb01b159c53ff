"""The stages: each turns the store's tables of one kind into those of the next.

They meet through tables only: no stage imports another.
"""
