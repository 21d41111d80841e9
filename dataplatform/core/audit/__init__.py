"""The audit: who did what, from where, to which path, and whether it was allowed.

It is an ordinary stream, `/.audit` in the root volume, with a topic for each audited volume.

- `trail` copies what was committed from the change rows of each audited volume, in order, with a
  cursor in the same unit as the records: exactly once, whatever is killed when.
- `observed` gathers what leaves no commit: denials and reads. A kill loses the last half second.
- `protection` is why nobody can change it: core functions refuse what the stream's mark forbids.
- `records`, `names`: what is written, and under which topic.

Nothing is imported here, so that `protection` can be used from everywhere in the core.
"""
