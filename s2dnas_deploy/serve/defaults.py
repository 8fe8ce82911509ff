"""How a server paces itself if nobody says otherwise; numbers only, for the command line to tell at once."""

BATCH = 32
MAX_WAIT_MS = 50.0
MAX_QUEUE_MS = 2000.0
MOST_MIB = 256
"""Of pixels that were admitted and are not answered yet."""
MOST_BODY_MIB = 64
"""Of one request."""
