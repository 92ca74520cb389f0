"""A local web application for judging labels: what it shows, in which order, and what judgements tell.

`server.serve(workdir)` opens it. Pure parts: `queues` (orders of images), `estimates` (what judgements tell),
`look_alikes`. Nothing here imports TensorFlow; FastAPI and uvicorn come with the extra `review`.
"""
