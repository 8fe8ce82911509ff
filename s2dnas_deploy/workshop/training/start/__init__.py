"""A start that keeps what the static network knows: channels that matter come first, weights are fitted."""
