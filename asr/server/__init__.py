"""`asr serve`: one process for all clients, four protocols and a page over the same services.

``app.py`` mounts one module per protocol. Each of them sees only ``Services``: ``live`` (streams), ``files``,
``catalogue`` and ``settings``. Protocol modules never compute; the services do that away from the event loop.
"""
