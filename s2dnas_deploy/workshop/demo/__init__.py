"""What a newcomer would bring, for who has nothing at hand: a network in a file, and images in folders."""
