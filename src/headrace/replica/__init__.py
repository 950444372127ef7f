"""The process around the user's code: admission, calling, streaming, HTTP, health, draining.

`main` is the process; `lifecycle` what the controller asks of it; `service` admits and runs calls of methods,
`http_service` HTTP requests; `user_code` is the user's class or function and its methods; `sync_worker` the threads
that sync methods run on; `vitals` tells from its own thread how the process does; `http/` translates.
"""
