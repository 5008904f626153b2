"""The wings and the ground floor below the programs and the doors."""
