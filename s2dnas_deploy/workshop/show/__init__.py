"""Networks in words, as JSON and as pictures."""
