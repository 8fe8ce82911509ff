"""Calibration: what every exit says is recorded, thresholds are chosen, and the bundle gets them."""
