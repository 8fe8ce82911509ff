"""Judging: what the exits of a plan get right, and what that is worth within a budget of cost."""
