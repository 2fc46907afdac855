"""A Nym client core: messages into Sphinx packets and gateway frames, and back; it knows nothing of IP."""
