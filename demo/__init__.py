"""The demo: a real data set through files, a table and a stream in one directory."""
