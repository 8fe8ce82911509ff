"""A zip that takes a bundle, its images and this package to a device without network, to be timed there."""
