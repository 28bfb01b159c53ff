"""The collection on the disk: sealed tables in shards, and the log of images folded.

Only here is HDF5 read or written; no network, no photo.
"""
