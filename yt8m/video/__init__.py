"""From video files to frames, without TensorFlow: processes that decode start quickly and stay small."""
