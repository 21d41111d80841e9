"""Publications: change feeds that are copied to ordinary streams, exactly once.

- `records`: what is written.
- `jobs`: one publication under way. Its record (`Publication`, in the stream's volume) holds the
  cursor and is rewritten by the commit that appends the records that it stands for, so a kill
  loses nothing and repeats nothing, wherever the feed is from.
- `publishing`: all of a platform's: begun, ended, listed, run in the background.

A publication sees what whoever began it may see, and appends by their right, as it is at each
step; when they have lost it, it stops and says why. Commits of publications are in no published
feed: a directory that holds the stream may be published to it, and two may publish each other's.
"""
