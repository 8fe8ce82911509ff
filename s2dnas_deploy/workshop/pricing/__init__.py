"""Pricing: what an image costs that leaves at each exit of a plan, by MACs or by a device's clock."""
