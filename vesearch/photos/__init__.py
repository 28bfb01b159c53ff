"""The one door to a user's pixels: files become upright RGB, in bounded processes.

Nothing here knows entities or stores.
"""
