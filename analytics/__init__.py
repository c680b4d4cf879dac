"""Analytics on the stream, at the edge or in the cloud: pure operators, and the jobs that run them on Quix Streams."""
