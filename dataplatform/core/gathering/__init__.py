"""Many streams into one: topics of other clusters, gathered into a topic here.

- `origins`: a batch as it was stored there becomes one whose records say where they are from.
- `gathers`: which there are; and the one unit that appends records and moves their source's cursor,
  so a kill loses nothing and repeats nothing.

Who fetches is the server (`server/gathering`). Each source's partition keeps its order: all of it
goes to one partition here, found by its name. A stream that is another one than it was, or has
fewer records than were gathered, is not followed; what was trimmed before it was gathered is
counted.
"""
