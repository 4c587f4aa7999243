"""Photos and tables: from what people attach to batches of pixels."""
