"""Files that people take away: submissions and archives."""
