"""`hart serve`: a page and OpenAI's Images API on one port, for several people at once.

    app.py         routes: a request in, an answer or a stream of events out
    schemas.py     what a request may hold, and the shape of errors
    bodies.py      reading bodies and uploads, in bounded memory
    orders.py      from a checked request to rows of a model, and from their images to an answer
    scheduler.py   rows of different people share batches: fairness, deadlines, bounds
    engine.py      rows of a model, and what may be known of it
    models.py      the models by name, opened when they are needed
    pipeline_engine.py   `HartPipeline` as an engine
    access.py      API keys, hosts, rate limits
    checkers.py    refusing prompts
    middleware.py    what stands around all routes
    replicas.py    the application in replicas on a Ray cluster, and the front before them
    metrics.py     figures for Prometheus

No file but `pipeline_engine.py` needs PyTorch: the port answers before that is imported.
"""
