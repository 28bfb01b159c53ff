"""The collection as files for other tools.

Nothing here is ever read back.
"""
