"""Fetching for gatherings: see `dataplatform/core/gathering`."""
