"""The rooms below the models: facts of the data, layers, metrics, the training loop and the files it writes."""
