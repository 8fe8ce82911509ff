"""Training a multi-stage network: settings ──▶ loop (losses, schedule, average) ──▶ record, checkpoint.

Every random choice is drawn from (seed, step), never from what was drawn before, so a run that was killed
and resumed goes through the very same numbers as one that was not.
"""
