"""Questions: the one way from a photo's entities to what is most similar to them.

Nothing is written here, and nothing is printed or drawn.
"""

from vesearch.search.searcher import Searcher

__all__ = ["Searcher"]
