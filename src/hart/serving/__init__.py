"""`hart serve`: a page and OpenAI's Images API on one port, for several people at once.

    request -> app -> bodies (reads it) -> app (rows of a model) -> scheduler (batches) -> pipeline_engine
    images  -> scheduler -> orders (an answer, or a stream of events)

With Ray, `replicas` has the front, and an app in each replica. Only `pipeline_engine.py` needs PyTorch: the port
answers before that is imported.
"""
