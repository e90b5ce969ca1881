"""Markets by the million: evaluation by chunks and devices, part files, summaries."""
