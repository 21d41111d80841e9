"""Programs that people start: the `dp` command (`cli`) and, later, the mount (`fuse`).

Imported as `dataplatform_clients`. They use the library `dataplatform` as any user would.
"""
