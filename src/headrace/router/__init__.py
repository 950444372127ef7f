"""Choosing a replica: admission, queueing, backpressure, retry, and the routing policies.

`hub` holds one `Router` per deployment that this process calls and keeps their replica sets up to date; `router` queues
and dispatches; `link` is the connection to one replica and what is known of its load; `policy` chooses; `call` is a
request on its way; `headers` is what travels with it; `context` is the request that user code works on.
"""
