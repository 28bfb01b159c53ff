"""The search page and its HTTP API: parse a request, ask the collection, answer in JSON.

Nothing here knows networks or tables, and nothing but the command line imports it.
"""
