"""Families of registered losses. A new file needs no other edit."""
