"""Adapters: one module per third-party library, importing it and the package's public names only.

None of them patches anything, and nothing in the package imports them.
"""
