"""HTTP servers: an application with its token, its limits and its metrics, and the server that runs it in a thread.

    application   routes, bearer token, errors as JSON, OpenAPI document, health
    errors        errors that become answers
    token         the bearer token that clients must send
    body          the body of a request, limited in size and time
    metrics       Prometheus metrics of requests
    server        uvicorn within a `with` block

The node and the served model give the routes.
"""
