"""Lowering: torch's many ways to say a thing become the few operators of the channel graph.

    lower ──▶ table ──▶ layers | elementwise | shapes ──▶ growing
    each call  by name   what the function stands for      the node, appended

A lowering has the signature of the torch function it stands for, so an argument it does not know is
refused rather than ignored. Nothing is guessed: what cannot be followed is an error with its line.
"""

from s2dnas_deploy.workshop.reading.lowering.lower import lower

__all__ = ["lower"]
