"""Families of registered models over frames. A new file needs no other edit."""
