"""The examples of a run and the micro-batches made of them."""
