"""Videos in files that other programs write and read: arrays, tables, JSON. A video is a row, whatever the file is."""
