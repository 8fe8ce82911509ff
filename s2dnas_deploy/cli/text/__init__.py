"""Results in words: tables and sentences for a person, nothing computed but the rounding."""
