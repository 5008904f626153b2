"""Families of registered models over one vector per video. A new file needs no other edit."""
