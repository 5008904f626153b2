"""From records to batches: shards, what is stored in them, what is wrong with them, and what is made up."""
