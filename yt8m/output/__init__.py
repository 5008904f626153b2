"""Output files for use outside the project: submissions to the competition and archives of runs."""
