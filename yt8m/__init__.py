"""The rooms below the models: facts of the data, layers, metrics, the training loop and the files it writes."""

import os

# Before any room imports TensorFlow: people read our messages, not the start-up notes of its C++ side, which calls some
# of them errors. What goes wrong later reaches us as an exception.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
