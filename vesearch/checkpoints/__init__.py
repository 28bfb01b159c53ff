"""Other people's trained networks, and the one file into which each is converted."""
