"""The channel graph, what can be divided of it, the divided network and its stages, and what they cost."""
