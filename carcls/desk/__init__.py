"""Tools for the desk; nothing here is part of kernel.py."""
