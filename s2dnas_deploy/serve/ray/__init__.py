"""The same answers from a cluster, by Ray: many images (Ray Data), and many callers (Ray Serve)."""
