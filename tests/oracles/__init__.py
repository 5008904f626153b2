"""What the tests compare with: the same results, computed slowly from their definitions."""
