"""Other people's trained networks, and the one file into which each is converted.

Nothing here runs a network, or any code that a file brings along.
"""
