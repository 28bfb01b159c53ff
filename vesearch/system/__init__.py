"""The operating system's edges, and those of object stores: files, signals, threads, the terminal.

Nothing here knows what vesearch does.
"""
