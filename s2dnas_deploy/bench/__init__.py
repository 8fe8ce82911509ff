"""Measuring a bundle on a device: what it costs, against what else one could run, and what is lost where."""
