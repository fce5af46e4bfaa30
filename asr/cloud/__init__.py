"""Inputs at URLs: ``s3://``, ``gs://``, ``https://``, ``http://``, ``sftp://`` and ``memory://`` (extra ``cloud``).

What other modules use:

- ``asr.cloud.addresses``: ``is_url(path)``, ``without_secrets(url)``, ``join_url(base, path)``, ``shown_place(path)``.
  Imports nothing heavy.
- ``asr.cloud.inputs``: ``open_input(url)`` (a binary file that seeks and reads ahead), ``read_whole(url)``,
  ``list_inputs(url)`` (the files below a folder), ``write_whole(url, data)``, ``input_exists(url)``.
- ``asr.cloud.input_cache``: whole files kept on the local disk.

Every function may be called from any number of threads. Errors are ``asr.errors.CloudError``: they name the URL without
its secrets. Libraries are imported when the first URL comes.
"""
