"""Real sockets, threads, greenlets, the clock and randomness: everything the cores must not touch.

Nothing is imported here: ``import smolmix_sync`` loads ``reactor._originals`` alone, gevent comes with
the first tunnel.

Source: design.md sections 2 and 3.
"""
