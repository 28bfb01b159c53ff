"""The operating system's edges: files, signals, descriptors, threads, the terminal.

Nothing here knows what vesearch does.
"""
