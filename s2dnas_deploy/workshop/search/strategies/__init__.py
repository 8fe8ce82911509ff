"""Strategies: which plans to ask about next, given what was answered so far."""
