"""Stands for a C library of that name."""
