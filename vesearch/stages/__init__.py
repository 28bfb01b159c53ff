"""The stages: each turns the store's tables of one kind into those of the next."""
