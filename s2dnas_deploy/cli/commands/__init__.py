"""A file for each command: it parses, hands a request to the library, and prints what comes of it."""
