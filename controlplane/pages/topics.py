"""Where a page stands on the live topics when it is rendered. Runs in the web process.

Take the mark before reading what the page shows: what is announced in between then comes twice, never not at all.
"""

import json

from controlplane.live.announce import last_seqs


def mark(*names: str) -> str:
    """`{topic: seq}` as JSON, for the page's `live-topics`."""
    return json.dumps(last_seqs(names))
