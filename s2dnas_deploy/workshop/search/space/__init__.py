"""The search space: which plans of a network there are, and how they are chosen."""
