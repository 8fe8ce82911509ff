"""Checks of finished graphs: that they answer as the network does, and what they reach on labelled images."""
