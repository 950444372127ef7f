"""HTTP in, router out.

`routes` matches paths, `app` is the ASGI application that answers with what replicas say, `http_call` and
`websocket_call` are requests on their way, `protocol` is uvicorn's HTTP protocol with what a proxy needs on top,
`responses` are the answers that the proxy gives itself, `main` is the process.
"""
