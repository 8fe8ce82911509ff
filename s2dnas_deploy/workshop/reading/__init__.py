"""A network as its owner wrote it, read: source, weights, trace, and the operations of the trace."""
